"""``safediff doctor``: is this machine ready?"""

EXTRAS = {
    "metrics": ("torch_fidelity", "lpips"),
    "nudenet": ("nudenet",),
    "sign": ("model_signing", "OpenSSL"),
    "lora": ("peft",),
    "datasets": ("pyarrow",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "track": ("tensorboardX",),
    "trt": ("tensorrt",),
    "trt-rtx": ("tensorrt_rtx",),
}
"""Extra of the package, and the modules that it installs."""


def doctor() -> None:
    """Show versions, extras, device and memory, and whether the shipped weights are intact."""
    import shutil
    from importlib.util import find_spec

    import onnxruntime as ort
    from rich.table import Table

    from safediff.cli.memory import device_memory, lean_rows
    from safediff.cli.plain_console import plain_console
    from safediff.cli.quiet_libraries import quiet_libraries
    from safediff.errors import Inconclusive

    quiet_libraries()
    from safediff.attack.params import ATTACK_REGISTRY
    from safediff.environment import environment
    from safediff.erase.methods import ERASERS
    from safediff.export.providers import GPU_PROVIDERS, refusal
    from safediff.judge.embedded import EmbeddedJudge
    from safediff.judge.registry import JUDGES
    from safediff.metrics.registry import METRICS
    from safediff.models.load import load_backbone
    from safediff.models.patch import unet_sha256
    from safediff.policy.plan import ModelPlan

    table = Table(title="safediff doctor", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("found")
    for name, value in environment().items():
        table.add_row(name, value)
    for provider in ort.get_available_providers():
        reason = refusal(provider) if provider in GPU_PROVIDERS else None
        said = f"{provider}: listed, but can't be opened: {reason}" if reason else provider
        table.add_row("ONNX Runtime's provider", said)
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        table.add_row(f"extra {extra}", f"lacks {', '.join(missing)}" if missing else "installed")
    if found := device_memory():
        table.add_row("device memory", f"{found[0]:.1f} of {found[1]:.1f} GiB free")
    for row in lean_rows():
        table.add_row(*row)
    table.add_row("free disk", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB")
    problems = []
    try:
        base = load_backbone(ModelPlan(base="embedded"))
        table.add_row("embedded model", f"intact, unet {unet_sha256(base.denoiser)[:12]}")
    except Inconclusive as error:
        problems.append(str(error))
    try:
        judge = EmbeddedJudge()
        table.add_row("embedded judge", f"intact, {len(judge.labels)} labels")
    except Inconclusive as error:
        problems.append(str(error))
    for registry in (JUDGES, METRICS, ATTACK_REGISTRY, ERASERS):
        for name, entry in sorted(registry.installed().items()):
            package = entry.dist.name if entry.dist else "a package"
            table.add_row(f"{registry.kind} {name}", f"of {package}")
        for sentence in registry.ignored():
            table.add_row("ignored", sentence)
    plain_console().print(table)
    if problems:
        raise Inconclusive("; ".join(problems), "reinstall safediff")
