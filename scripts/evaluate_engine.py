"""What the engine draws and says on the bundled model, judged from pixels.

    python -m scripts.evaluate_engine [--count 64]

Every case goes through ``Engine.run`` or ``Engine.answer``, as a call of the GPU service does.  Prompts and
seeds are fixed.  Prints the table of docs/engine.md.
"""

import argparse
import hashlib
import io
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modal_app import catalog, engine
from modal_app.contract import ImageRequest, JudgeRequest, ProfileRequest, ProfileResult
from modal_app.engine import BatchEngine, Drawing, Engine, Item, LanguageEngine
from scripts.tiny import captions, creatures, drawing
from scripts.tiny.lora import border_brightness
from tests.judge import judge, judge_pair

LORAS = Path(__file__).parents[1] / "tests" / "data" / "loras"
STEPS = 12
TOGETHER = 16

Shares = dict[str, float]
"""Shares of right answers by name, 0 to 1."""


@dataclass(frozen=True)
class Studio:
    """Both rows of the bundled model, and a folder for the files that go in."""

    words: BatchEngine
    edit: Engine
    folder: Path

    def draw(self, prompts: Sequence[str], **changes: Any) -> list[Image.Image]:
        """One picture for every prompt; the seed is its number."""
        images: list[Image.Image] = []
        for start in range(0, len(prompts), TOGETHER):
            part = prompts[start : start + TOGETHER]
            files = changes.get("files", {})
            items = [
                Item(_request(prompt=p, seed=start + n, **changes), files, _unheard, _wanted)
                for n, p in enumerate(part)
            ]
            for drawn in self.words.run_batch(items):
                assert isinstance(drawn, Drawing)
                images.append(drawn.pictures[0].image)
        return images

    def change(self, references: Sequence[Image.Image], instruction: str, seed: int) -> Image.Image:
        files = {sha256: path for sha256, path in map(self.keep, references)}
        uses = [{"url": "", "sha256": self.keep(image)[0]} for image in references]
        request = _request(model="tiny-qwen-edit", prompt=instruction, seed=seed, references=uses)
        return self.edit.run(request, files, _unheard, _wanted).pictures[0].image

    def keep(self, image: Image.Image) -> tuple[str, Path]:
        """A picture as a file: (sha256, path)."""
        file = io.BytesIO()
        image.save(file, "PNG")
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        (self.folder / sha256).write_bytes(file.getvalue())
        return sha256, self.folder / sha256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64, help="cases a row of the table")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        studio = open_studio(Path(folder))
        print("| what | cases | right |\n|---|---|---|")
        for title, evaluate in EVALUATIONS.items():
            for name, share in evaluate(studio, count).items():
                print(f"| {title}: {name} | {count} | {share:.1%} |", flush=True)


def open_studio(folder: Path) -> Studio:
    words = engine.load(_row("tiny-qwen"))
    assert isinstance(words, BatchEngine)
    return Studio(words, engine.load(_row("tiny-qwen-edit")), folder)


def text_to_image(studio: Studio, count: int) -> Shares:
    """All five facts of a prompt."""
    rng = random.Random("words")
    wanted = [creatures.random_picture(rng) for _ in range(count)]
    images = studio.draw([captions.plain_caption(picture) for picture in wanted])
    return _facts(images, wanted)


def edits(studio: Studio, count: int) -> Shares:
    """One fact changed as told, four kept from the reference; kinds take turns."""
    rng, images, wanted = random.Random("edits"), [], []
    for seed in range(count):
        before = creatures.random_picture(rng)
        instruction, after = captions.edit(rng, before, captions.EDIT_KINDS[seed % len(captions.EDIT_KINDS)])
        images.append(studio.change([drawing.draw(before)], instruction, seed))
        wanted.append(after)
    return {"all five facts": _facts(images, wanted)["all five facts"]}


def pairs(studio: Studio, count: int) -> Shares:
    """Two references, both creatures in one picture."""
    rng, rights = random.Random("pairs"), []
    for seed in range(count):
        one, other = creatures.random_picture(rng), creatures.random_picture(rng)
        text, wanted = captions.pair(rng, one, other)
        seen, scene = judge_pair(studio.change([drawing.draw(one), drawing.draw(other)], text, seed))
        facts = [(found.body, found.color, found.hat) for found in seen]
        asked = [(creature.body, creature.color, creature.hat) for creature in wanted.creatures]
        rights.append({"both creatures": facts == asked, "scene": scene == wanted.scene})
    return _shares(rights)


def loras(studio: Studio, count: int) -> Shares:
    """Spread of colours at the scales 0, 0.5 and 1 of sepia; then a frame beside it."""
    rng = random.Random("loras")
    prompts = []
    for _ in range(count):
        picture = creatures.random_picture(rng)
        scene = rng.choice(("plain", "day", "beach"))  # bright ones: the frame is measured by its darkness
        prompts.append(captions.plain_caption(creatures.Picture(picture.creatures, scene=scene)))
    base, half, full = (_looked(studio, prompts, sepia=scale) for scale in (0.0, 0.5, 1.0))
    both = _looked(studio, prompts, sepia=1.0, frame=1.0)
    means = [statistics.mean(map(color_spread, images)) for images in (base, half, full)]
    rights = [
        {
            "less colour at 0.5 than without": color_spread(b) > color_spread(h),
            "less colour at 1 than at 0.5": color_spread(h) > color_spread(f),
            "mean colour falls from 0 to 0.5 to 1": means == sorted(means, reverse=True),
            "a second one frames the picture": border_brightness(t) < border_brightness(f),
            "and leaves the first one's look": color_spread(t) < color_spread(b),
        }
        for b, h, f, t in zip(base, half, full, both, strict=True)
    ]
    return _shares(rights)


def descriptions(studio: Studio, count: int) -> Shares:
    """The fields of a picture's profile, and whether a changed creature is noticed."""
    rng, rights = random.Random("descriptions"), []
    assert isinstance(studio.edit, LanguageEngine)
    for _ in range(count):
        shown = creatures.random_picture(rng)
        sha256, path = studio.keep(drawing.draw(shown))
        image = {"url": "", "sha256": sha256}
        request = ProfileRequest(model="tiny-qwen-edit", image=image)
        result = studio.edit.answer(request, {sha256: path}, _wanted)
        assert isinstance(result, ProfileResult)
        rights.append({name: result.profile.get(name) == value for name, value in shown.facts.items()})
    return _shares(rights)


def judgements(studio: Studio, count: int) -> Shares:
    """A picture of the same creature scores higher than one of another."""
    rng, rights = random.Random("judgements"), []
    assert isinstance(studio.edit, LanguageEngine)
    for _ in range(count):
        shown, other = creatures.random_picture(rng), creatures.random_picture(rng)
        same = creatures.Picture(shown.creatures, view=shown.view, scene=other.scene, pose=other.pose)
        scores = [_score(studio, drawing.draw(shown), drawing.draw(picture)) for picture in (same, other)]
        rights.append({"same above other": scores[0] > scores[1] or other.creatures == shown.creatures})
    return _shares(rights)


def _score(studio: Studio, reference: Image.Image, image: Image.Image) -> float:
    (first, path), (second, other) = studio.keep(image), studio.keep(reference)
    request = JudgeRequest(
        model="tiny-qwen-edit",
        image={"url": "", "sha256": first},
        references=[{"url": "", "sha256": second}],
    )
    assert isinstance(studio.edit, LanguageEngine)
    result = studio.edit.answer(request, {first: path, second: other}, _wanted)
    assert result.task == "judge"
    return result.score


EVALUATIONS: dict[str, Callable[[Studio, int], Shares]] = {
    "text to image": text_to_image,
    "edit of one reference": edits,
    "two references": pairs,
    "LoRA": loras,
    "profile of a picture": descriptions,
    "judge": judgements,
}


def color_spread(image: Image.Image) -> float:
    """How far the hues of a picture are apart, 0 to 255: little in sepia, whatever it shows."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=float), -1, 0)
    return float((red - green).std() + (green - blue).std())


def _looked(studio: Studio, prompts: list[str], **scales: float) -> list[Image.Image]:
    paths = {name: LORAS / name / "pytorch_lora_weights.safetensors" for name in scales}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    uses = [{"url": "", "sha256": hashes[name], "scale": scale} for name, scale in scales.items()]
    return studio.draw(prompts, loras=uses, files={hashes[name]: paths[name] for name in scales})


def _facts(images: Sequence[Image.Image], wanted: Sequence[creatures.Picture]) -> Shares:
    rights = []
    for image, picture in zip(images, wanted, strict=True):
        seen = judge(image)
        right = {name: seen[name] == value for name, value in picture.facts.items()}
        rights.append({**right, "all five facts": all(right.values())})
    return _shares(rights)


def _shares(rights: Sequence[dict[str, bool]]) -> Shares:
    return {name: statistics.mean(right[name] for right in rights) for name in rights[0]}


def _request(**changes: Any) -> ImageRequest:
    values: dict[str, Any] = {"model": "tiny-qwen", "width": 96, "height": 96, "num_inference_steps": STEPS}
    return ImageRequest(**{**values, **{k: v for k, v in changes.items() if k != "files"}})


def _row(model_id: str) -> catalog.Model:
    row = catalog.find(model_id)
    assert row is not None
    return row


def _unheard(step: int, steps: int) -> None:
    """Nobody follows an evaluation."""


def _wanted() -> bool:
    return False


if __name__ == "__main__":
    main()
