import os
from pathlib import Path

import pytest

from agent_pipelines.core.secrets import redactor
from agent_pipelines.web.token import FILE_NAME, VARIABLE, ApiToken, TokenError


def test_a_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        token = ApiToken.of_home(tmp_path, {})
    finally:
        os.umask(before)
    file = tmp_path / FILE_NAME
    value = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(value) >= 43  # 256 bits in base64
    assert token.is_in(f"Bearer {value}")
    assert ApiToken.of_home(tmp_path, {}).is_in(f"Bearer {value}")
    assert redactor.text(f"said {value}") == "said [secret]"


def test_two_deployments_have_two_tokens(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ApiToken.of_home(tmp_path / "a", {})
    ApiToken.of_home(tmp_path / "b", {})
    assert (tmp_path / "a" / FILE_NAME).read_text() != (tmp_path / "b" / FILE_NAME).read_text()


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    value = "from-the-environment-0123456789abcdef"
    assert ApiToken.of_home(tmp_path, {VARIABLE: value}).is_in(f"Bearer {value}")
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("mode", "value", "words"),
    [
        (0o644, "x" * 40, "can be read by others: run `chmod 600"),
        (0o600, "short", "has 5 characters"),
        (0o600, "", "0 characters"),
    ],
)
def test_a_weak_token_is_refused(tmp_path: Path, mode: int, value: str, words: str) -> None:
    file = tmp_path / FILE_NAME
    file.write_text(value)
    file.chmod(mode)
    with pytest.raises(TokenError, match=words):
        ApiToken.of_home(tmp_path, {})


def test_an_empty_variable_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="has 0 characters"):
        ApiToken.of_home(tmp_path, {VARIABLE: ""})
