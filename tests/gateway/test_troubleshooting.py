"""The troubleshooting page: it knows every code of the doctor, and what it says of pictures holds."""

import re
import shlex
from pathlib import Path

import httpx
import typer.main

from gateway import cli, doctor
from gateway.jobs import lifecycle
from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def test_every_check_has_its_section_and_no_section_is_left_over() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == sorted(doctor.CODES)
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        assert re.search(r"\*\*Symptom:\*\*.*\*\*Cause.*[Ff]ix:", section, re.DOTALL), section


def test_the_known_problems_stand_there_in_the_words_people_search_for() -> None:
    for words in (
        "MODAL_GENERATE_ENDPOINT not configured",
        "stuck in 'queued'",
        "Authentication required",
        "webhook fails",
        "slow generation",
        "Lightning",
        "poor quality",
        "50 to 100 steps",
        "r128",
        "better prompt",
        "images do not show",
    ):
        assert words in PAGE, words


def test_codes_of_jobs_are_those_of_the_state_machine() -> None:
    source = Path(lifecycle.__file__).read_text()
    codes = set(re.findall(r'Fail\(\s*"(\w+)"', source))
    listed = PAGE[PAGE.index("| code of a job") :].split("\n\n")[0]
    assert codes == set(re.findall(r"^\| `(\w+)`", listed, re.MULTILINE))


def test_its_commands_exist_with_their_flags() -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for line in block.splitlines() if line]
    lines += re.findall(r"`(tenkaigen [^`]+)`", PAGE)
    group = typer.main.get_command(cli.app)
    for line in lines:
        words, found = shlex.split(line, comments=True)[1:], group
        while words and words[0] in getattr(found, "commands", {}):
            found, words = found.commands[words[0]], words[1:]
        flags = {option for param in found.params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= flags, line
        assert found is not group, line
    flags = {o for param in group.commands["doctor"].params for o in (*param.opts, *param.secondary_opts)}  # type: ignore[attr-defined]
    assert set(re.findall(r"`(--[a-z-]+)(?: [A-Z0-9]+)?`", PAGE)) <= flags


async def test_public_and_signed_pictures_may_be_shown_by_pages_of_any_origin(product: Stack) -> None:
    for visibility in ("public", "private"):
        job = await product.user.create(prompt="a dragon", visibility=visibility, wait=20)
        (image,) = job["images"]
        async with httpx.AsyncClient() as anybody:
            answer = await anybody.get(image["url"])
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        own = await product.user.http.get(f"/v1/images/{image['id']}/content")
        assert "access-control-allow-origin" not in own.headers
