from mvtrack.files.cache import weights_identity


def test_weights_are_told_by_what_they_hold(tmp_path):
    """Folders: by names and bytes below them, wherever they lie; files: by bytes; ids: as they are."""
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "deep/model.safetensors").write_bytes(b"weights")
    first = weights_identity(str(tmp_path / "one"))
    assert first == weights_identity(str(tmp_path / "two"))
    (tmp_path / "two/deep/model.safetensors").write_bytes(b"others.")
    assert weights_identity(str(tmp_path / "two")) != first
    (tmp_path / "one/deep/model.safetensors").rename(tmp_path / "one/model.safetensors")
    assert weights_identity(str(tmp_path / "one")) != first
    files = [tmp_path / "one/model.safetensors", tmp_path / "two/deep/model.safetensors"]
    assert len({weights_identity(str(file)) for file in files}) == 2
    assert weights_identity("owner/name") == "owner/name"
