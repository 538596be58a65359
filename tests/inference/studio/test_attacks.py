"""What a hostile user, page or file tries; each is refused, and the server goes on."""

import io
import json
import zipfile

import pytest

from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.measure import _measure
from mvtrack.inference.studio.uploads import suffix_of

PATH = {"path": {"text": "arc_left 10deg"}}
NAMES = ["../../../etc/cron.d/x.mp4", "/etc/passwd", "..\\..\\boot.mp4", "a\0b.mp4", "\u202egpj.mp4", "con.mp4", ""]


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("video.mp4", b"\0" * 10_000_000)
    return packed.getvalue()


NO_VIDEOS = {
    "HLS playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" + b"#" * 500,
    "concat script": b"ffconcat version 1.0\nfile /etc/passwd\n" + b"#" * 500,
    "DASH": b'<?xml version="1.0"?><MPD></MPD>' + b" " * 500,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>" + b" " * 500,
    "page": b"<!doctype html><script>1</script>" + b" " * 500,
    "zip bomb": zip_bomb(),
    "program": b"\x7fELF" + bytes(500),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_never_paths(studio, ready, tmp_path, name):
    client = studio()
    upload = ready(client, name)
    assert sorted(path.name for path in upload.folder.iterdir()) == ["info.json", "status.json", "video.mp4"]
    assert not {"/", "\\", "\0", "\u202e"} & set(upload.info["name"])
    assert upload.info["name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studio"]


@pytest.mark.parametrize("what", NO_VIDEOS)
def test_what_is_no_video_by_its_first_bytes_is_not_kept(studio, what):
    client = studio()
    answer = client.post("/api/uploads", params={"name": "x.mp4"}, content=NO_VIDEOS[what])
    assert answer.status_code == 422
    assert "no video" in answer.json()["error"]
    assert list((client.server.store.root / "uploads").iterdir()) == []


def test_first_bytes_of_videos_are_known(video):
    assert suffix_of(video.read_bytes()[:400]) == ".mp4"
    assert suffix_of(b"\x1a\x45\xdf\xa3" + bytes(400)) == ".mkv"
    assert suffix_of((b"\x47" + bytes(187)) * 3) == ".ts"
    assert suffix_of(b"\x47" + bytes(399)) is None


def test_a_length_of_10_gb_is_refused_before_anything_is_read(studio):
    client, taken = studio(), []

    def body():
        taken.append(1)
        yield b"x"

    answer = client.post("/api/uploads", content=body(), headers={"content-length": str(10**10)})
    assert answer.status_code == 413
    assert "10000 MB" in answer.json()["error"]
    assert list((client.server.store.root / "uploads").iterdir()) == []


def test_a_stream_longer_than_the_limit_ends_at_it(studio, video):
    client, sent = studio(max_upload_mb=1), []

    def body():
        yield video.read_bytes()[:1000]
        for _ in range(50):
            sent.append(1)
            yield bytes(100_000)

    answer = client.post("/api/uploads", content=body())
    assert answer.status_code == 413
    assert list((client.server.store.root / "uploads").iterdir()) == []


def test_a_long_video_and_large_pictures_are_refused(video, tmp_path):
    with pytest.raises(ValueError, match="7 frames .*, up to 5 are taken: cut it"):
        _measure(tmp_path, video, StudioLimits(max_frames=5))
    with pytest.raises(ValueError, match="160x90, up to 0.0 megapixels are taken"):
        _measure(tmp_path, video, StudioLimits(max_pixels=100))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1"])
def test_names_of_other_sites_that_point_here_are_refused(studio, host):
    answer = studio().get("/api/state", headers={"host": host})
    assert answer.status_code == 421


def test_pages_of_other_sites_change_nothing(studio, ready):
    client = studio()
    upload = ready(client)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        answer = client.post(f"/api/uploads/{upload.id}/render", json=PATH, headers={"origin": origin})
        assert answer.status_code == 403
    own = client.post(f"/api/uploads/{upload.id}/preview", json=PATH, headers={"origin": "http://127.0.0.1:8080"})
    assert own.status_code == 200


def test_without_the_password_nothing_is_answered(studio):
    client = studio(password="right horse")
    for path in ("/api/state", "/api/jobs/0123456789abcdef", "/api/uploads/0123456789abcdef/source.mp4"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"cookie": "mvtrack_session=" + "0" * 32 + "." + "0" * 64}).status_code == 401
        assert client.get(path, headers={"cookie": "mvtrack_session=\u00e9.\u00e9".encode()}).status_code == 401
    assert client.post("/api/uploads", content=b"x").status_code == 401
    assert client.post("/login", content="wrong horse").status_code == 403
    assert client.post("/login", content=b"\xff" * 5000).status_code == 413
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"
    assert client.post("/login", content="right horse", follow_redirects=False).status_code == 303
    assert client.get("/api/state").status_code == 200


def test_a_session_sees_nothing_of_another(studio, ready):
    client = studio(password="right horse")
    client.post("/login", content="right horse")
    upload = ready(client)
    job = client.post(f"/api/uploads/{upload.id}/render", json=PATH).json()
    client.cookies.clear()
    client.post("/login", content="right horse")
    assert client.get("/api/state").json()["jobs"] == client.get("/api/state").json()["uploads"] == []
    of_upload, of_job = f"/api/uploads/{upload.id}", f"/api/jobs/{job['id']}"
    for path in (of_upload, of_upload + "/frames/0", of_upload + "/source.mp4", of_job, of_job + "/log",
                 of_job + "/tracks", of_job + "/all.zip", of_job + "/files/video.mp4"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    for path in (of_upload + "/preview", of_upload + "/render", of_upload + "/cameras", of_job + "/cancel",
                 of_job + "/export4d"):  # fmt: skip
        assert client.post(path, json=PATH).status_code == 404, path
    assert client.delete(of_upload).status_code == client.delete(of_job).status_code == 404
    assert upload.folder.exists()


def test_another_password_ends_all_sessions(studio):
    client = studio(password="old")
    client.post("/login", content="old")
    cookie = client.cookies["mvtrack_session"]
    later = studio(password="new")
    assert later.get("/api/state", headers={"cookie": f"mvtrack_session={cookie}"}).status_code == 401


@pytest.mark.parametrize(
    "name", ["..%2F..%2Finfo.json", "%2Fetc%2Fpasswd", "%2e%2e", "info.json", "%00", "video.mp4%00"]
)
def test_only_files_of_a_result_are_sent(studio, ready, wait_for, name):
    client = studio()
    upload = ready(client)
    job = client.post(f"/api/uploads/{upload.id}/render", json=PATH).json()
    wait_for(client, job["id"], "done")
    assert client.get(f"/api/jobs/{job['id']}/files/video.mp4").content == b"moving"
    assert client.get(f"/api/jobs/{job['id']}/files/{name}").status_code in (404, 307)
    assert client.get(f"/static/{name}").status_code in (404, 307)


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "--model=/tmp", "arc_left\0", "$(id)", "", "arc_left 1e400deg", "x" * 5000]
)
def test_paths_in_words_name_no_files_and_no_options(studio, ready, text):
    client = studio()
    upload = ready(client)
    shown = client.post(f"/api/uploads/{upload.id}/preview", json={"path": {"text": text}})
    assert "error" in shown.json()
    assert client.post(f"/api/uploads/{upload.id}/render", json={"path": {"text": text}}).status_code == 422
    assert client.server.store.entries["jobs"] == {}


WRONG = [
    {"path": {"keys": [{"c2w": [1] * 16}] * 2}}, {"path": {"keys": [{"c2w": [1, 2]}] * 2}}, {"path": {"keys": []}},
    {"path": {"text": "arc_left", "distance": 0}}, {"path": {"text": "arc_left", "fov": "wide"}}, {"path": None},
    {"path": {"text": "arc_left"}, "render": {"model": "../secret"}}, {"path": {"text": "arc_left", "command": "id"}},
    {"path": {"text": "arc_left"}, "render": {"tracks": "points.csv"}}, {"path": {"text": "pan_left", "measured": 1}},
    {"path": {"text": "arc_left"}, "render": {"resolution": "99999x99999"}}, {},
    {"path": {"text": "arc_left"}, "render": {"resolution": "--out"}}, {"path": {"text": "arc_left"}, "count": "many"},
    {"path": {"text": "arc_left"}, "render": {"seed": -1}}, {"path": {"text": "arc_left"}, "render": {"decoder": "/x"}},
]  # fmt: skip


@pytest.mark.parametrize("wish", WRONG, ids=map(str, range(len(WRONG))))
def test_what_the_page_never_asks_is_refused_in_words(studio, ready, wish):
    client = studio()
    upload = ready(client)
    answer = client.post(f"/api/uploads/{upload.id}/render", json=wish)
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert client.server.store.entries["jobs"] == {}


def test_bodies_that_are_no_small_json_are_refused(studio, ready):
    client = studio()
    url = f"/api/uploads/{ready(client).id}/preview"
    assert client.post(url, content=b"[" * 100_000).status_code == 422
    assert client.post(url, content=b"[1]").status_code == 422
    assert client.post(url, content=b"\xff").status_code == 422
    assert client.post(url, content=json.dumps({"path": "x" * 300_000})).status_code == 413


def test_scripts_in_names_stay_text(studio, ready):
    """The page puts them there as text; and should markup ever get in, its scripts do not run."""
    client, script = studio(), "<img src=x onerror=alert(1)>"
    upload = ready(client, script + ".mp4")
    assert client.get(f"/api/uploads/{upload.id}").json()["name"] == script + ".mp4"
    for path in ("/", "/api/state", "/static/app.js"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    scripts = [client.get(f"/static/{name}.js").text for name in ("app", "jobs", "path", "marks", "player", "scene")]
    assert not any(word in text for text in scripts for word in ("innerHTML", "insertAdjacent", "document.write"))
    assert "<script>" not in client.get("/").text


def test_too_many_jobs_and_a_full_disk_are_said(studio, ready, monkeypatch):
    client = studio(max_waiting_each=2)
    upload = ready(client)
    url = f"/api/uploads/{upload.id}/render"
    codes = [client.post(url, json=PATH | {"render": {"seed": 5}}).status_code for _ in range(4)]
    assert codes[:2] == [201, 201]
    assert 429 in codes
    client.server.limits.__dict__["keep_free_gb"] = 1e9
    answer = client.post("/api/uploads", content=b"x")
    assert answer.status_code == 422
    assert "disk is full" in answer.json()["error"]


def test_listening_for_others_needs_a_password(tmp_path, monkeypatch, capsys):
    uvicorn = pytest.importorskip("uvicorn")
    testclient = pytest.importorskip("starlette.testclient")
    from mvtrack.cli.web import main

    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append((server, sockets[0])))
    assert main([str(tmp_path / "studio"), "--listen", "0.0.0.0", "--port", "0"]) == 0
    url = capsys.readouterr().out.split()[0]
    server, socket = served[0]
    socket.close()
    token = url.partition("?token=")[2]
    assert len(token) >= 24
    with testclient.TestClient(server.config.app, base_url="http://192.0.2.7:8080") as client:
        assert client.get("/api/state").status_code == 401
        assert client.get("/?token=wrong").status_code == 403
        assert client.get(f"/?token={token}").status_code == 200
        assert client.get("/api/state").status_code == 200
