"""Weights over real HTTP from a little Hub in this process: refusals, cuts, and what lies there after."""

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from modal_app import catalog, deployment, engine, resources, weights
from modal_app.weights import (
    HubOnline,
    WeightsError,
    __main__,
    download,
    fetch,
    on_modal,
    read_manifest,
    verify,
)
from tests.support.stack import free_port

SD15, SDXL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
PONY, QWEN = (
    "LyliaEngine/Pony_Diffusion_V6_XL",
    "lite-infer/Qwen-Image-nunchaku-lite-int4_r32-bnb4-text-encoder",
)
LIGHTNING, EDIT = "lightx2v/Qwen-Image-Lightning", "Qwen/Qwen-Image-Edit-2509"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
BIG = bytes(range(256)) * 12_000
"""3 MB: several blocks."""
HALF = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"unet": 1}',
    "tokenizer/merges.txt": b"a b",
    UNET: BIG,
    "vae/diffusion_pytorch_model.fp16.safetensors": b"vae",
}


@dataclass
class Repository:
    commit: str
    files: dict[str, bytes]
    gated: bool = False

    def sibling(self, path: str) -> dict[str, Any]:
        content = self.files[path]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
        if path.endswith(".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        return found


@dataclass
class LittleHub:
    """Answers as the Hub does, or as it does on a bad day."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(path, range) of every request."""
    failures: int = 0
    """So many of the next files are answered with 503."""
    cut_after: int | None = None
    """The next file ends after so many bytes, in the middle of the answer."""
    damaged: str = ""
    """This file arrives with other bytes."""
    ranges: bool = True

    def add(self, name: str, files: dict[str, bytes], commit: str = "") -> Repository:
        self.repositories[name] = Repository(commit or pinned(name), files)
        return self.repositories[name]

    @property
    def files_asked(self) -> list[str]:
        return [path.rpartition("/")[2] for path, _ in self.asked if path.startswith("/cdn/")]


def pinned(repository: str) -> str:
    """The commit that the catalogue names for a repository."""
    pins = [(v.repository, v.revision) for row in catalog.CATALOG for v in row.variants]
    pins += [(lora.repository, lora.revision) for row in catalog.CATALOG for lora in row.step_loras.values()]
    return next((commit for name, commit in pins if name == repository and commit), "1" * 40)


def handler(hub: LittleHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Not in the output of the tests."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((path, self.headers.get("Range", "")))
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._listing("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "")
            elif parts[0] == "cdn":
                self._file("/".join(parts[1:3]), "/".join(parts[3:]))
            else:
                self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

        def _listing(self, name: str, revision: str) -> None:
            repository = hub.repositories.get(name)
            if repository is None:
                return self._refuse(404, "RepoNotFound")
            if revision and revision != repository.commit:
                return self._refuse(404, "RevisionNotFound")
            siblings = [repository.sibling(path) for path in repository.files]
            body = json.dumps({"id": name, "sha": repository.commit, "siblings": siblings}).encode()
            return self._answer(200, body)

        def _resolve(self, name: str, commit: str, path: str) -> None:
            repository = hub.repositories[name]
            if repository.gated and not self.headers.get("Authorization"):
                return self._refuse(401, "GatedRepo")
            if commit != repository.commit or path not in repository.files:
                return self._refuse(404, "EntryNotFound")
            return self._answer(302, b"", Location=f"{hub.url}/cdn/{name}/{path}")

        def _file(self, name: str, path: str) -> None:
            if hub.failures:
                hub.failures -= 1
                return self._answer(503, b"")
            content, start = hub.repositories[name].files[path], 0
            if path == hub.damaged:
                content = content[:-1] + b"!"
            wanted = self.headers.get("Range", "")
            if wanted and hub.ranges:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
            return self._answer(206 if wanted and hub.ranges else 200, content[start:])

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, b"", **{"X-Error-Code": code})

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = hub.cut_after if self.path.startswith("/cdn/") else None
            hub.cut_after = None if cut else hub.cut_after
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleHub]:
    monkeypatch.setattr(download, "FIRST_DELAY_SECONDS", 0.01)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    little = LittleHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(little))
    little.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield little
    server.shutdown()
    thread.join()
    server.server_close()


Take = Callable[..., list[weights.Plan]]


@pytest.fixture
def take(hub: LittleHub, tmp_path: Path) -> Take:
    """``fetch`` from the little Hub into the test's folder."""

    def taken(*models: str, **options: Any) -> list[weights.Plan]:
        quiet = Console(file=(tmp_path / "said").open("a"), width=200)
        return fetch(models, tmp_path / "cache", **{"hub": HubOnline(hub.url), "console": quiet, **options})

    return taken


@pytest.fixture
def sd15(hub: LittleHub) -> Repository:
    return hub.add(SD15, dict(HALF))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def folder_of(cache: Path, repository: str) -> Path:
    return cache / repository.replace("/", "--")


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(code: str) -> Any:
    return pytest.raises(WeightsError, check=lambda error: error.code == code and "\n" not in str(error))


# ---------------------------------------------------------------- refusals


def test_a_licence_that_nobody_accepted_is_refused_before_the_hub_is_asked(
    hub: LittleHub, take: Take
) -> None:
    with refused("licence_not_accepted"):
        take("sd15", "flux1-dev")
    with refused("licence_not_accepted"):
        take("flux1-dev", accepted=["pony"])
    assert hub.asked == []


@pytest.mark.parametrize(
    ("models", "options", "code"),
    [
        (["no-such-model"], {}, "unknown_model"),
        (["sd15"], {"gpu": "abacus"}, "unknown_gpu"),
        (["sd15"], {"quant": "svdq-int4-r32"}, "unsupported_hardware"),
        (["qwen-image"], {"gpu": "T4"}, "unsupported_hardware"),
        (["sd15"], {}, "repository_missing"),
    ],
)
def test_what_cannot_be_had_is_told_by_code(
    take: Take, models: list[str], options: dict[str, str], code: str
) -> None:
    with refused(code):
        take(*models, **options)


def test_a_gated_repository_asks_for_a_token(
    sd15: Repository, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    sd15.gated = True
    with refused("repository_gated"):
        take("sd15")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    assert take("sd15")


def test_a_commit_that_is_gone_is_told(sd15: Repository, take: Take) -> None:
    sd15.commit = "2" * 40
    with refused("file_missing"):
        take("sd15")


def test_a_repository_without_the_weights_is_told(sd15: Repository, take: Take, cache: Path) -> None:
    del sd15.files[UNET], sd15.files["vae/diffusion_pytorch_model.fp16.safetensors"]
    with refused("file_missing"):
        take("sd15")
    assert not cache.exists()


def test_without_a_network_it_says_so(take: Take) -> None:
    with refused("no_network"):
        take("sd15", hub=HubOnline(f"http://127.0.0.1:{free_port()}"))


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    sd15: Repository, hub: LittleHub, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = download.RESERVE_BYTES + len(BIG)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))
    with refused("disk_full"):
        take("sd15")
    assert hub.files_asked == []


def test_a_disk_that_fills_up_meanwhile_is_told(
    sd15: Repository, take: Take, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("disk_full"):
        take("sd15")
    assert read_manifest(folder_of(cache, SD15)) is None


def test_a_cache_that_is_no_folder_is_told(sd15: Repository, take: Take, cache: Path) -> None:
    cache.write_text("")
    with refused("disk_failed"):
        take("sd15")


@pytest.mark.parametrize("damaged", [UNET, "unet/config.json"])
def test_bytes_that_the_hub_did_not_state_are_thrown_away(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path, damaged: str
) -> None:
    hub.damaged = damaged
    with refused("checksum_mismatch"):
        take("sd15")
    folder = folder_of(cache, SD15)
    assert read_manifest(folder) is None
    assert not [path for path in files_in(folder) if path.startswith(damaged)]
    hub.damaged = ""
    take("sd15")
    assert verify(folder) == []


def test_a_hub_that_keeps_failing_is_given_up(sd15: Repository, hub: LittleHub, take: Take) -> None:
    hub.failures = 1000
    with refused("hub_failed"):
        take("sd15")
    assert len(hub.files_asked) <= download.TRIES * len(HALF)


def test_code_and_files_outside_of_the_folder_are_never_fetched(
    sd15: Repository, hub: LittleHub, take: Take, tmp_path: Path
) -> None:
    bad = ("unet/x.bin", "unet/x.pt", "x.ckpt", "unet/run.py", "x.pkl", "../x.json", "a/../../x.json")
    sd15.files |= dict.fromkeys((*bad, "manifest.json", "single.fp16.safetensors"), b"bad")
    take("sd15")
    assert files_in(folder_of(tmp_path / "cache", SD15)) == {*HALF, "manifest.json"}
    assert not list(tmp_path.glob("**/x.*"))


def test_a_folder_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    with refused("no_manifest"):
        verify(tmp_path)


# ---------------------------------------------------------------- what arrives


def test_the_manifest_says_what_lies_there(sd15: Repository, take: Take, cache: Path) -> None:
    take("sd15")
    folder = folder_of(cache, SD15)
    assert {path: (folder / path).read_bytes() for path in HALF} == HALF
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["repository"], manifest["revision"], manifest["commit"]) == (SD15, *[sd15.commit] * 2)
    assert manifest["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for path, content in HALF.items()
    }


def test_a_second_start_asks_nobody(sd15: Repository, hub: LittleHub, take: Take, cache: Path) -> None:
    take("sd15")
    before, written = len(hub.asked), (folder_of(cache, SD15) / "manifest.json").stat()
    (again,) = take("sd15")
    assert again.missing == () and len(hub.asked) == before
    assert (folder_of(cache, SD15) / "manifest.json").stat().st_ino == written.st_ino


def test_the_engine_looks_where_it_was_put(
    sd15: Repository, take: Take, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("sd15")
    monkeypatch.setattr(engine, "options", engine.Options(model_cache=cache))
    row = catalog.find("sd15")
    assert row and engine.servable(row)
    assert engine.checkpoint_folder(row) == folder_of(cache, SD15)


def test_a_dry_run_tells_sizes_and_fetches_nothing(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path
) -> None:
    (planned,) = take("sd15", dry_run=True)
    assert planned.size == planned.missing_bytes == sum(map(len, HALF.values()))
    assert hub.files_asked == [] and not cache.exists()


def test_a_cut_connection_is_taken_up_where_it_broke(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path
) -> None:
    sd15.files, hub.cut_after = {UNET: BIG}, 2_000_000
    take("sd15")
    starts = [asked for path, asked in hub.asked if path.startswith("/cdn/")]
    assert starts[0] == "bytes=0-" and len(starts) == 2
    assert 0 < int(starts[1].removeprefix("bytes=").rstrip("-")) <= 2_000_000
    assert verify(folder_of(cache, SD15)) == []


def test_a_new_start_goes_on_with_what_an_old_one_left(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sd15.files = {UNET: BIG}
    hub.cut_after = 1_500_000
    monkeypatch.setattr(download, "TRIES", 1)
    with refused("no_network"):
        take("sd15")
    (part,) = folder_of(cache, SD15).rglob("*.part")
    had = part.stat().st_size
    assert 0 < had <= 1_500_000
    (planned,) = take("sd15", dry_run=True)
    assert planned.missing_bytes == len(BIG) - had
    take("sd15")
    assert hub.asked[-1][1] == f"bytes={had}-"
    assert files_in(folder_of(cache, SD15)) == {UNET, "manifest.json"}


def test_a_server_that_ignores_ranges_costs_time_and_nothing_else(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path
) -> None:
    sd15.files, hub.ranges, hub.cut_after = {UNET: BIG}, False, 1_200_000
    take("sd15")
    assert verify(folder_of(cache, SD15)) == []


def test_a_short_failure_of_the_hub_is_waited_out(sd15: Repository, hub: LittleHub, take: Take) -> None:
    hub.failures = 3
    assert take("sd15")


def test_a_damaged_file_is_named_and_it_alone_is_fetched_again(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path
) -> None:
    take("sd15")
    file = folder_of(cache, SD15) / UNET
    file.write_bytes(BIG[:-1] + b"!")
    (wrong,) = verify(folder_of(cache, SD15))
    assert UNET in wrong
    hub.asked.clear()
    take("sd15")
    assert hub.files_asked == [Path(UNET).name] and file.read_bytes() == BIG


def test_an_unpinned_repository_stays_at_the_commit_it_was_first_taken_at(
    hub: LittleHub, take: Take, cache: Path, tmp_path: Path
) -> None:
    file = "ponyDiffusionV6XL_v6StartWithThisOne.safetensors"
    pony = hub.add(PONY, {file: b"first", "other.safetensors": b"x"}, "a" * 40)
    hub.add(SDXL, {"model_index.json": b"{}", "unet/config.json": b"{}", "unet/x.fp16.safetensors": b"no"})
    take("pony", accepted=["pony"])
    assert "not pinned" in (tmp_path / "said").read_text()
    manifest = read_manifest(folder_of(cache, PONY))
    assert manifest and (manifest.revision, manifest.commit) == (None, "a" * 40)
    pony.commit, pony.files[file] = "b" * 40, b"second"
    take("pony", accepted=["Fair AI Public License 1.0-SD, modified by its author"])
    assert (folder_of(cache, PONY) / file).read_bytes() == b"first"


def test_rows_that_share_a_repository_share_its_folder(hub: LittleHub, take: Take, cache: Path) -> None:
    hub.add(SDXL, dict(HALF))
    hub.add(PONY, {"ponyDiffusionV6XL_v6StartWithThisOne.safetensors": b"pony"})
    take("pony", accepted=["pony"])
    assert not (folder_of(cache, SDXL) / UNET).exists()
    take("sdxl")
    take("pony", accepted=["pony"])
    manifest = read_manifest(folder_of(cache, SDXL))
    assert manifest and set(manifest.files) == set(HALF)


def test_a_moved_pin_brings_the_folder_to_the_new_commit(
    sd15: Repository, hub: LittleHub, take: Take, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("sd15")
    row = catalog.find("sd15")
    assert row
    moved = replace(row, variants=(replace(row.variants[0], revision="c" * 40),))
    monkeypatch.setattr(catalog, "find", lambda name: moved)
    sd15.commit = "c" * 40
    sd15.files["unet/new.fp16.safetensors"] = b"new"
    del sd15.files[UNET]
    hub.asked.clear()
    take("sd15")
    assert hub.files_asked == ["new.fp16.safetensors"]
    assert files_in(folder_of(cache, SD15)) == {*sd15.files, "manifest.json"}
    manifest = read_manifest(folder_of(cache, SD15))
    assert manifest and manifest.commit == "c" * 40


# ---------------------------------------------------------------- what rows need


@pytest.fixture
def qwen(hub: LittleHub) -> Repository:
    hub.add(EDIT, {"processor/preprocessor_config.json": b"{}", "processor/chat_template.jinja": b"x"})
    loras = [f"Qwen-Image-Lightning-{steps}steps-V2.0-bf16.safetensors" for steps in (4, 8)]
    hub.add(LIGHTNING, {**dict.fromkeys(loras, b"lora"), "other.safetensors": b"x"})
    return hub.add(QWEN, {"transformer/x.safetensors": b"x", "model_index.json": b"{}"})


def test_a_row_that_draws_in_few_steps_gets_its_loras_and_eyes_for_its_encoder(
    qwen: Repository, take: Take, cache: Path
) -> None:
    take("qwen-image-fast")
    own = files_in(folder_of(cache, QWEN))
    assert {"processor/preprocessor_config.json", "processor/chat_template.jinja"} < own
    assert len(files_in(folder_of(cache, LIGHTNING))) == 3
    row = catalog.find("qwen-image-fast")
    assert row and all(
        (folder_of(cache, lora.repository) / lora.path).is_file() for lora in row.step_loras.values()
    )
    lent = read_manifest(folder_of(cache, QWEN) / "processor")
    assert lent and (lent.repository, lent.below) == (EDIT, "processor/")


def test_a_repository_with_a_processor_of_its_own_borrows_none(
    qwen: Repository, hub: LittleHub, take: Take, cache: Path
) -> None:
    qwen.files["processor/preprocessor_config.json"] = b"own"
    take("qwen-image")
    assert not folder_of(cache, EDIT).exists() and "processor/manifest.json" not in files_in(cache)
    assert not [path for path, _ in hub.asked if EDIT in path]


def test_weights_with_the_lora_in_them_need_no_lora() -> None:
    rows = [row for row in catalog.CATALOG if row.id == "qwen-image-edit-fast"]
    assert [part.repository for part in weights.wanted(rows, "L40S")] == [rows[0].variants[0].repository]
    assert LIGHTNING in [part.repository for part in weights.wanted(rows, "H100")]


def test_no_folder_of_the_catalogue_is_wanted_at_two_commits() -> None:
    for gpu in catalog.GPUS:
        rows = [row for row in catalog.CATALOG if gpu.name in catalog.allowed_gpus(row)]
        folders = [part.folder for part in weights.wanted(rows, gpu.name)]
        assert len(folders) == len(set(folders)), gpu.name


# ---------------------------------------------------------------- the command


@pytest.fixture
def command(hub: LittleHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr(weights, "HubOnline", lambda: HubOnline(hub.url))
    monkeypatch.setattr(engine, "options", engine.options)

    def run(*arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(__main__.cli, [*arguments, "--cache", str(cache)], env={"COLUMNS": "200"})
        return ended.exit_code, ended.output

    return run


def test_the_command_says_in_one_line_why_not(command: Callable[..., tuple[int, str]]) -> None:
    status, said = command("flux1-dev")
    assert status == 1 and said.startswith("licence_not_accepted: flux1-dev") and said.count("\n") == 1
    status, said = command("sd15")
    assert status == 1 and said.startswith("repository_missing: ") and said.count("\n") == 1
    assert command("sd15", "--verify")[0] == 1


def test_the_command_fetches_verifies_and_lists(
    sd15: Repository, command: Callable[..., tuple[int, str]], cache: Path
) -> None:
    status, said = command("sd15", "--dry-run")
    assert status == 0 and "3.1 MB" in said and not cache.exists()
    assert command("sd15")[0] == 0
    assert command("sd15", "--verify")[0] == 0
    status, said = command()
    (line,) = [line for line in said.splitlines() if "sd15" in line]
    assert status == 0 and "3.1 MB" in line
    (folder_of(cache, SD15) / UNET).unlink()
    status, said = command("--verify")
    assert status == 1 and f"{UNET}: missing" in said


@pytest.mark.filterwarnings("ignore:The download function is executing locally")
def test_the_volume_is_committed_whatever_happens(
    sd15: Repository, hub: LittleHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = []

    class Volume:
        def commit(self) -> None:
            committed.append(files_in(cache) if cache.exists() else set())

    monkeypatch.setattr(weights, "HubOnline", lambda: HubOnline(hub.url))
    monkeypatch.setattr(resources, "models", Volume())
    monkeypatch.setattr(deployment, "MODEL_FOLDER", str(cache))
    fill = on_modal.download.local
    assert fill(["sd15"], "L40S", "", [], False) == ""
    assert fill(["flux1-dev"], "L40S", "", [], False).startswith("licence_not_accepted: ")
    assert committed == [{f"{SD15.replace('/', '--')}/{path}" for path in (*HALF, "manifest.json")}] * 2
