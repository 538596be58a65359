from mvtrack.cli.main import main as cli
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.reader import open_video


def test_demo_writes_what_it_says(small_model, tmp_path, capsys):
    folder = save_model(small_model, tmp_path / "m").parent
    assert cli(["demo", "--model", str(folder), "--out", str(tmp_path / "demo")]) == 0
    files = capsys.readouterr().out.splitlines()
    assert [f.split("/")[-1] for f in files] == ["side_by_side.mp4"] * 3 + ["contact_sheet.jpg"]
    info = open_video(files[0])
    assert len(info) == 17
    assert info.size[1] > 3 * info.size[0]  # reference, model, truth in a row
    assert open_video(tmp_path / "demo/arc_left/reference.mp4").size == (4 * 24, 4 * 32)
