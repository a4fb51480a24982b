"""The server without a browser: pictures, codes, films, projections, and who may ask."""

from __future__ import annotations

import io
import re
import threading
import time

import numpy as np
import pytest
import torch
from explore_helpers import TOKEN, bad_files, client_of, make_app, png
from PIL import Image
from starlette.testclient import TestClient

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore.access import Guard, check_token
from stylegan_lightning.latent.codes import Codes, codes_of, render, styles_of
from stylegan_lightning.latent.sampling import generate
from tests.cli.cli_helpers import exported


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("explore") / "G.safetensors", "stylegan2", "model.use_noise=true")


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    app, painter = make_app(model, tmp_path_factory.mktemp("kept"), lease=2.0)
    with client_of(app) as client:
        yield client, painter


@pytest.fixture
def app(client):
    """Without anything that a client of the other tests sends."""
    return client.app


@pytest.fixture(scope="module")
def client(served):
    return served[0]


@pytest.fixture(scope="module")
def painter(served):
    return served[1]


def pixels(response):
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def chw(image):
    return image.permute(1, 2, 0).numpy()


def wait(client, job, *states, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"/api/projections/{job['id']}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"still {job}")


# ------------------------------------------------------------------------------------------------- pictures


def test_the_picture_of_a_seed_is_that_of_generate(client, painter):
    expected = generate(painter.G, [12], psi=0.7, cutoff=3)[0][0]
    assert np.array_equal(pixels(client.get("/api/image?a=12&psi=0.7&cutoff=3")), chw(expected))
    assert pixels(client.get("/api/image?a=12&size=8")).shape == (8, 8, 3)
    random = generate(painter.G, [12], noise_mode="random")[0][0]
    assert np.array_equal(pixels(client.get("/api/image?a=12&noise=random")), chw(random))


def test_mixing_is_of_styles(client, painter):
    G = painter.G
    a, b = styles_of(G, [1]), styles_of(G, [2])
    assert np.array_equal(pixels(client.get("/api/image?a=1&b=2&mix=1")), chw(generate(G, [2])[0][0]))
    mixed = a.clone()
    mixed[:, :2] = b[:, :2]
    weights = ",".join(str(int(i < 2)) for i in range(G.num_ws))
    assert np.array_equal(pixels(client.get(f"/api/image?a=1&b=2&mix={weights}")), chw(render(G, mixed)[0]))
    half = pixels(client.get("/api/image?a=1&b=2&mix=0.5"))
    assert np.array_equal(half, chw(render(G, torch.lerp(a, b, 0.5))[0]))


def test_directions_move(client, painter):
    first = next(iter(painter.directions.values()))
    expected = render(painter.G, first.apply(styles_of(painter.G, [1]), 2.5))[0]
    assert np.array_equal(pixels(client.get(f"/api/image?a=1&d={first.name}:2.5")), chw(expected))


def test_what_cannot_be_drawn_is_said(client):
    for query, status, why in (
        ("a=x", 400, "must be a seed"),
        ("a=1&size=99999", 400, "size"),
        ("a=w0123456789abcdef", 400, "there is no code"),
        ("b=1", 400, "missing"),
    ):
        response = client.get(f"/api/image?{query}")
        assert response.status_code == status and why in response.json()["error"]
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/server.py").status_code == 404


def test_codes_go_out_and_come_back(client, painter, tmp_path):
    file = client.get("/api/codes?a=1&d=sefa0:1")
    assert "attachment" in file.headers["content-disposition"]
    (tmp_path / "c.safetensors").write_bytes(file.content)
    assert len(codes_of(painter.G, str(tmp_path / "c.safetensors"))) == 1
    kept = client.post("/api/codes", content=file.content).json()
    assert len(kept) == 1
    again = pixels(client.get(f"/api/image?a=w{kept[0]['id']}"))
    assert np.array_equal(again, pixels(client.get("/api/image?a=1&d=sefa0:1")))
    foreign = tmp_path / "foreign.safetensors"
    Codes(torch.zeros(1, 2, 3), ("x",)).save(foreign)
    refused = client.post("/api/codes", content=foreign.read_bytes())
    assert refused.status_code == 422 and "another model" in refused.json()["error"]


@pytest.mark.parametrize("kind", ["mp4", "webp", "gif"])
def test_films(client, kind):
    if kind == "mp4":
        pytest.importorskip("av")
    response = client.get(f"/api/film?a=1&b=2&frames=4&fps=4&kind={kind}")
    assert response.status_code == 200 and f"film.{kind}" in response.headers["content-disposition"]
    if kind != "mp4":
        assert Image.open(io.BytesIO(response.content)).n_frames == 4
    else:
        assert response.content[4:8] == b"ftyp"


def test_films_that_cannot_be(client):
    for query, why in (
        ("a=1&kind=gif", "second picture"),
        ("a=1&b=2&kind=avi", "one of"),
        ("a=1&b=2&frames=1", "frames"),
    ):
        response = client.get(f"/api/film?{query}")
        assert response.status_code == 400 and why in response.json()["error"]
    assert client.get("/api/film?a=1&d=sefa0:2&frames=2&kind=gif").status_code == 200


# ---------------------------------------------------------------------------------------------- projections


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused(client, name):
    content, why = bad_files()[name]
    route = "/api/codes" if name.endswith(".safetensors") else "/api/projections?name=x"
    response = client.post(route, content=content)
    assert 400 <= response.status_code < 500 and why in response.json()["error"], response.text
    assert pixels(client.get("/api/image?a=1")).shape == (16, 16, 3)


def test_a_picture_is_projected(client, painter):
    job = client.post("/api/projections?name=me,you&steps=12", content=png()).json()
    assert job["state"] == "waiting" and job["name"] == "me_you"
    looked = wait(client, job, "running", "done")
    done = wait(client, looked, "done", "failed")
    assert done["state"] == "done" and done["step"] == done["steps"] == 12 and done["psnr"] > 0, done
    assert np.array_equal(pixels(client.get(f"/api/projections/{job['id']}/target.png")), np.asarray(read(png())))
    preview = pixels(client.get(f"/api/projections/{job['id']}/preview.png"))
    assert np.array_equal(preview, pixels(client.get(f"/api/image?a=w{done['code']}")))
    assert client.get(f"/api/projections/{job['id']}/x.png").status_code == 404
    assert client.get("/api/projections/none").status_code == 404


def read(data):
    return Image.open(io.BytesIO(data))


def test_pictures_are_drawn_while_a_projection_runs(client):
    job = client.post("/api/projections?name=slow&steps=2000", content=png()).json()
    wait(client, job, "running")
    for seed in range(100, 110):
        assert pixels(client.get(f"/api/image?a={seed}")).shape == (16, 16, 3)
    assert client.get(f"/api/projections/{job['id']}").json()["state"] == "running"
    client.delete(f"/api/projections/{job['id']}")
    assert client.get(f"/api/projections/{job['id']}").json()["state"] == "cancelled"
    after = client.post("/api/projections?steps=3", content=png(seed=1)).json()
    assert wait(client, after, "done", "failed")["state"] == "done"


def test_a_job_that_nobody_asks_for_is_given_up(client, served):
    job = client.post("/api/projections?name=left&steps=2000", content=png()).json()
    wait(client, job, "running")
    time.sleep(4)
    assert client.get(f"/api/projections/{job['id']}").json()["state"] == "cancelled"


def test_the_line_has_an_end(client):
    jobs = [client.post("/api/projections?steps=2000", content=png()) for _ in range(12)]
    assert {r.status_code for r in jobs} == {200, 429} and "wait" in jobs[-1].json()["error"]
    for response in jobs:
        if response.status_code == 200:
            client.delete(f"/api/projections/{response.json()['id']}")


def test_a_process_that_dies_is_said_and_replaced(client, monkeypatch):
    job = client.post("/api/projections?name=dies&steps=2000", content=png()).json()
    wait(client, job, "running")
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    failed = wait(client, job, "failed")
    assert "unexpectedly" in failed["error"]
    after = client.post("/api/projections?steps=3", content=png()).json()
    assert wait(client, after, "done", "failed")["state"] == "done"


def test_tabs_do_not_disturb_each_other(client):
    """Requests at once from several threads give what they give one by one."""
    alone = {seed: client.get(f"/api/image?a={seed}&b=3&mix=0.5&size=12").content for seed in range(200, 208)}
    found: dict[tuple[int, int], bytes] = {}

    def ask(tab):
        for seed in alone:
            found[tab, seed] = client.get(f"/api/image?a={seed}&b=3&mix=0.5&size=12").content

    threads = [threading.Thread(target=ask, args=(tab,)) for tab in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 32 and all(content == alone[seed] for (_, seed), content in found.items())


# ----------------------------------------------------------------------------------------------- who may ask


def test_every_answer_has_its_policy(client):
    for path in ("/", "/script.js", "/api/model", "/nothing", "/api/image?a=x"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"


def test_foreign_sites_are_refused(client):
    for path in ("/api/model", "/api/image?a=1"):
        assert client.get(path, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/api/codes", headers={"sec-fetch-site": "same-site"}).status_code == 403
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://testserver", 422)):
        sent = client.post("/api/codes", headers={"origin": origin}, content=b"x")
        assert sent.status_code == status, (origin, sent.text)
    link = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200


def routes(app):
    """(method, path) of all, with something for what varies."""
    found = {(m, route.path) for route in app.routes for m in route.methods}
    return sorted((m, re.sub(r"\{.*?\}", "0123456789abcdef", path)) for m, path in found)


def test_every_route_needs_the_token(app):
    assert len(routes(app)) >= 12
    stranger = TestClient(app)
    for method, path in [*routes(app), ("GET", "/"), ("GET", "/script.js"), ("PATCH", "/nothing")]:
        for query in ("", f"?token={TOKEN}") if path != "/" else ("", "?token=wrong", "?token=", "?token=%FF"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": b"stylegan_lightning_80=\xff"}):
                refused = stranger.request(method, f"{path}{query}", headers=headers, content=b"x")
                assert refused.status_code == 401 and "needs its token" in refused.text, (method, path, query)
                assert TOKEN not in refused.text


def test_the_token_becomes_a_cookie_and_leaves_the_address(app):
    client = TestClient(app)
    opened = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert opened.status_code == 303 and opened.headers["location"] == "/"
    assert opened.headers["referrer-policy"] == "no-referrer"
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "stylegan_lightning_80=" in cookie
    assert client.get("/api/model").status_code == 200 and client.get("/?a=5").status_code == 200
    assert client.get("/?token=wrong").status_code == 401
    other = TestClient(app)
    assert other.get("/api/model").status_code == 401


def test_names_that_point_here_get_nothing_without_the_token(app):
    for host in ("evil.example", "localhost.evil.example:80", "[::1", "", "a:b:c", "[::1]:8000", ":" + "9" * 400):
        client = TestClient(app)
        assert client.get("/api/model", headers={"host": host}).status_code == 401
        opened = client.get(f"/?token={TOKEN}", headers={"host": host}, follow_redirects=False)
        assert opened.status_code == 303, host
        with_token = client.get("/api/model", headers={"host": host, "authorization": f"Bearer {TOKEN}"})
        assert with_token.status_code == 200, host


def test_tokens_that_are_taken(app):
    assert check_token("a-long_enough.token~1") and TOKEN not in repr(Guard(TOKEN))
    for wrong in ("", "short", "with space", "semi;colon", "and&amp=1", "plus+plus", "ümlaut-ümlaut", "line\nline-"):
        with pytest.raises(UserError, match="--token must have at least 8"):
            check_token(wrong)


# -------------------------------------------------------------------------------------------- other models


@pytest.mark.parametrize("family", ["mlp", "dcgan", "progan", "stylegan1", "stylegan3_t"])
def test_every_model_has_a_page(family, tmp_path):
    app, painter = make_app(exported(tmp_path / "G.safetensors", family), tmp_path)
    with client_of(app) as client:
        about = client.get("/api/model").json()
        assert about["styles"] == painter.can.styles and about["size"] == 16
        assert np.array_equal(pixels(client.get("/api/image?a=3")), chw(generate(painter.G, [3])[0][0]))
        whole = pixels(client.get("/api/image?a=3&b=4&mix=1"))
        assert np.array_equal(whole, pixels(client.get("/api/image?a=4")))


def test_a_conditional_model_has_classes(tmp_path):
    model = exported(tmp_path / "G.safetensors", "stylegan2", "data.classes=hair", "model.c_dim=4")
    app, painter = make_app(model, tmp_path)
    with client_of(app) as client:
        assert client.get("/api/model").json()["classes"] == 4
        expected = generate(painter.G, [3], label=2)[0][0]
        assert np.array_equal(pixels(client.get("/api/image?a=3c2")), chw(expected))
        job = client.post("/api/projections?steps=2&class=9", content=png())
        assert job.status_code == 400 and "0..3" in job.json()["error"]
