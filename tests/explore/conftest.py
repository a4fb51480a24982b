"""A page of a tiny model, which nobody needs to start a server for."""

from __future__ import annotations

import pytest
from explore_helpers import client_of, make_app

import stylegan_lightning
import stylegan_lightning.cli.explore
from tests.cli.cli_helpers import exported


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("limits") / "G.safetensors", "stylegan2", "model.use_noise=true")


@pytest.fixture(scope="module")
def G(model):
    return stylegan_lightning.load(model)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Answers 500, as a browser sees it, where a test client would raise."""
    app, painter = make_app(model, tmp_path_factory.mktemp("kept"))
    with client_of(app, raise_server_exceptions=False) as client:
        yield client, painter


@pytest.fixture
def client(served):
    return served[0]


@pytest.fixture
def server(client):
    return client.app.state.server
