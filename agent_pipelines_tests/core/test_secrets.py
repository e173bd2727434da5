import pytest

from agent_pipelines.core.secrets import REPLACEMENT, Redactor


def test_registered_values_vanish_from_texts_keys_and_nested_values() -> None:
    redactor = Redactor()
    redactor.register("open sesame")
    cleaned = redactor.value({"say open sesame": ["open sesame!", {"deep": ("x", "open sesame")}], "n": 1, "none": None})
    assert "open sesame" not in str(cleaned)
    assert cleaned == {f"say {REPLACEMENT}": [f"{REPLACEMENT}!", {"deep": ["x", REPLACEMENT]}], "n": 1, "none": None}


def test_a_secret_that_contains_another_vanishes_whole() -> None:
    redactor = Redactor()
    redactor.register("abcd")
    redactor.register("abcd-and-more")
    assert redactor.text("abcd-and-more") == REPLACEMENT


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh12345678",
        "key sk-proj-abcdefghijk",
        "ghp_abcdefghijklmnop1234",
        "postgresql://kim:hunter22@db/x",
        "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM",
        "AKIAIOSFODNN7EXAMPLE",
        "authorization: BASIC QWxhZGRpbjpvcGVu=",
        "xoxb-123456789012-abcdef",
        "GLPAT-abcdefghijklmnop",
        "AIzaSyA1234567890abcdef",
        "-----BEGIN PRIVATE KEY-----MIIEvQIBADANBg",
    ],
)
def test_text_in_the_shape_of_a_credential_vanishes(text: str) -> None:
    cleaned = Redactor().text(text)
    assert REPLACEMENT in cleaned
    for secret in (
        "abcdefgh12345678",
        "sk-proj",
        "ghp_",
        "hunter22",
        "eyJzdWIi",
        "IOSFODNN7",
        "QWxh",
        "123456",
        "abcdefghijklm",
        "MIIE",
    ):
        assert secret not in cleaned


def test_plain_words_stay() -> None:
    text = "The basic understanding: ask-me-anything at https://example.com/a:b, risk-free, bearer instruments of news."
    assert Redactor().text(text) == text
