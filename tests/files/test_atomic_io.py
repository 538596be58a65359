from pathlib import Path

import pytest

from mvtrack.files.atomic_io import beside, new_folder, refuse_existing, write_aside


def test_two_writers_of_one_file_never_meet(tmp_path):
    """Not even two with one process number, on two machines that share a folder."""
    names = {beside(tmp_path / "a.json") for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.parent == tmp_path
        assert name.name.startswith(".a.json.")
    assert beside(tmp_path / "a.mp4", ".mp4").suffix == ".mp4"


def test_what_a_kill_leaves_is_no_file_of_its_kind(tmp_path):
    beside(tmp_path / "a.json").write_text("{")
    assert list(tmp_path.rglob("*.json")) == []


def test_a_file_that_cannot_be_finished_leaves_nothing_and_replaces_nothing(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")

    def half(aside: Path) -> None:
        aside.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_aside(path, half)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "before")]


def test_only_results_without_the_input_are_replaced(tmp_path):
    source = tmp_path / "o/in.mp4"
    source.parent.mkdir()
    refuse_existing(source.parent, True)
    source.touch()
    with pytest.raises(ValueError, match="is no result of mvtrack"):
        refuse_existing(source.parent, True)
    (tmp_path / "o/attention.json").touch()
    refuse_existing(source.parent, True, tmp_path / "other.mp4")
    with pytest.raises(ValueError, match=r"holds .*in\.mp4"):
        refuse_existing(source.parent, True, source)
    with pytest.raises(ValueError, match="is not a folder"):
        refuse_existing(source, True)


def test_what_appeared_meanwhile_stays_and_so_does_what_was_made(tmp_path):
    out = tmp_path / "o"

    def make() -> None:
        with new_folder(out, overwrite=False) as aside:
            (aside / "run.json").write_text("made")
            out.mkdir()

    with pytest.raises(ValueError, match="exists already.*; what was made is in ") as error:
        make()
    assert list(out.iterdir()) == []
    assert (Path(str(error.value).split(" is in ")[1]) / "run.json").read_text() == "made"
