"""``safediff generate``: pictures of one prompt, base beside the erased model."""

from pathlib import Path
from typing import Annotated

import typer

from safediff.errors import UsageError


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="Texts to draw.")],
    model: Annotated[
        str, typer.Option(help="embedded, a run, a release, a diffusers folder or a hub id.")
    ] = "embedded",
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file.")] = Path("grid.png"),
    count: Annotated[int, typer.Option(min=1, help="Pictures per prompt and model.")] = 4,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Denoising steps; as verified if not given, or 25."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; as verified if not given, or 5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Base seed.")] = 0,
    guard: Annotated[
        str | None, typer.Option(help="A guard to draw with too, such as sld-medium.")
    ] = None,
    avoid: Annotated[
        list[str] | None, typer.Option(help="What the guard steers away from; repeat it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
) -> None:
    """Draw an image grid; for a run or release, base and result side by side, same seeds.

    Under torchrun all processes share the drawing.
    """
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.guard.load import make_guard
    from safediff.sample.sampler import Sampling
    from safediff.sample.shards import sharded
    from safediff.workflow.generate import generate_grid
    from safediff.workflow.subject import verified_sampling

    if avoid and guard is None:
        raise UsageError("--avoid: there is no guard to steer away from it", "add --guard neg")
    chosen = make_guard(guard, avoid or []) if guard else None
    known = verified_sampling(model)
    sampling = Sampling(
        num_steps=steps if steps is not None else known.get("num_steps", 25),
        guidance_scale=guidance if guidance is not None else known.get("guidance_scale", 5.0),
        seed=seed,
        batch_size=16,
    )
    with sharded() as shards:
        generate_grid(model, revision, prompts, count, sampling, out, chosen, shards)
    if shards.leads:
        print(out)
