"""Links: what they say, what they may not say."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore.state import Abilities, Picture, Point, parse

CAN = Abilities(4, 0, ("smile", "hair: long & wavy"))
CLASSES = Abilities(1, 3, ())


def read(text, can=CAN):
    return parse(parse_qsl(text, keep_blank_values=True), can)


@pytest.mark.parametrize(
    "text",
    [
        "a=0",
        "a=4294967295&b=7&mix=1",
        "a=1&b=w0123456789abcdef&psi=0.7&cutoff=2&mix=0,0.25,1,1&noise=none",
        "a=1&psi=-0.5&d=smile:-1.5&d=hair%3A%20long%20%26%20wavy:2",
    ],
)
def test_a_text_and_its_picture_are_one(text):
    picture = read(text)
    assert read(picture.text()) == picture
    assert set(parse_qsl(picture.text())) == set(parse_qsl(text))


def test_what_changes_nothing_is_left_out():
    assert read("a=1&b=2&mix=0&psi=1&noise=const&d=smile:0").text() == "a=1&b=2"
    assert read("a=1&b=2&mix=0.5,0.5,0.5,0.5").text() == "a=1&b=2&mix=0.5"
    assert read("a=5", CLASSES) == Picture(Point(5, 0)) and read("a=5c2", CLASSES).text() == "a=5c2"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "picture is missing"),
        ("a=x", "must be a seed"),
        ("a=-1", "must be a seed"),
        ("a=4294967296", "at most"),
        ("a=1c0", "without classes"),
        ("a=wabc", "must be a seed"),
        ("a=w../../../etc/pass", "must be a seed"),
        ("a=1&a=2", "twice"),
        ("a=1&psi=nan", "psi must be a number"),
        ("a=1&psi=3", "psi must be a number"),
        ("a=1&cutoff=5", "cutoff must be a whole number"),
        ("a=1&mix=0.5", "second picture"),
        ("a=1&b=2&mix=1,1", "each of the 4 styles"),
        ("a=1&b=2&mix=2", "mix must be a number"),
        ("a=1&noise=loud", "noise must be"),
        ("a=1&d=frown:1", "no direction 'frown'"),
        ("a=1&d=smile:1&d=smile:2", "twice"),
        ("a=1&d=smile:inf", "strength of smile"),
        ("a=1&zoom=2", "no setting 'zoom'"),
    ],
)
def test_what_cannot_be_is_said(text, why):
    with pytest.raises(UserError, match=why.replace("(", r"\(")):
        read(text)


def test_a_class_that_is_not_there():
    with pytest.raises(UserError, match=r"0\.\.2"):
        read("a=5c3", CLASSES)
