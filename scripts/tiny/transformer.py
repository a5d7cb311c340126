"""Stage 3, the transformer: rectified flow on latents and embeddings computed beforehand."""

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor, nn

from scripts.tiny import examples, parts
from scripts.tiny.flow import flow_loss
from scripts.tiny.loop import Dice, Stage, fit
from scripts.tiny.prompts import Encoder
from scripts.tiny.run import Run
from scripts.tiny.tokenizer import new_processor, new_tokenizer

FIRST_SHARE, FIRST_BATCH = 0.12, {"t2i": 80}
"""Text to image alone at the beginning, to learn to draw at all."""
BATCH = {"t2i": 52, "edit": 32, "pair": 12}
WEIGHTS = {"t2i": 0.5, "edit": 0.35, "pair": 0.15}
RATE = 3e-3


def train(run: Run) -> None:
    vae = AutoencoderKLQwenImage.from_pretrained(run.part("vae")).to(run.device)
    encoder = Encoder.from_pretrained(run.part("text_encoder"), dtype=torch.float32).to(run.device)
    tokenizer = new_tokenizer()
    kinds = examples.build(run, vae, encoder, tokenizer, new_processor(tokenizer))
    torch.manual_seed(run.seed)
    transformer = parts.new_transformer().to(run.device).train()
    first_steps = round(FIRST_SHARE * run.steps("transformer"))

    def loss(step: int, dice: Dice) -> tuple[Tensor, dict[str, float]]:
        sizes = FIRST_BATCH if step < first_steps else BATCH
        losses = {
            kind: flow_loss(transformer, dice, *kinds[kind].batch(dice, count))
            for kind, count in sizes.items()
        }
        total = torch.stack([WEIGHTS[kind] * value for kind, value in losses.items()]).sum()
        return total, {kind: value.item() for kind, value in losses.items()}

    stage = Stage(
        name="transformer",
        parameters=list(transformer.parameters()),
        optimizers=_optimizers(transformer),
        loss=loss,
        rate=RATE,
        warmup=80,
        decay=0.996,
    )
    fit(
        stage,
        steps=run.steps("transformer"),
        seed=run.seed,
        checkpoint=run.checkpoint("transformer"),
        report=run.reporter("transformer"),
    )
    run.finish("transformer", transformer.eval())


def _optimizers(transformer: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and MLPs, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in transformer.named_parameters():
        inner = parameter.ndim == 2 and (".attn." in name or "_mlp." in name)
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=RATE, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
