"""The command that asks of a pod before anyone pays for it."""

import argparse
import json

from tokjax.cli.options import Command


def add(command: Command) -> None:
    """Adds it to the command line."""
    sub = command(
        "plan",
        _plan,
        "say whether a recipe fits the chips of a pod, and how fast it would be, without them",
        "tokjax.experiment.plan",
    )
    sub.add_argument(
        "--config", required=True, metavar="NAME|PATH.py[:variant]", help="recipe; variants smoke, small, paper"
    )
    sub.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="chips and how they lie: v5e:4x4, v6e:8x8, v5p:4x4x4, or h100:8 for GPUs",
    )
    sub.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="devices per mesh axis, as in fsdp=8,tensor=2; what is left over is data (default: try several)",
    )
    sub.add_argument(
        "--compile",
        action="store_true",
        help="also compile the step for the chips, which takes minutes and the extra `compile`, and show what the "
        "compiler says beside the estimates",
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument(
        "--config.FIELD", metavar="VALUE", dest="_", help="override a field, as in --config.data.batch_size=64"
    )


def _plan(arguments: argparse.Namespace) -> int:
    import jax
    from rich.console import Console

    from tokjax.experiment.config import load_config, override
    from tokjax.experiment.plan import compile_step, make_plan, parse_mesh
    from tokjax.measure.pods import topology
    from tokjax.report.plan import plan_json, terminal_plan

    jax.config.update("jax_platforms", "cpu")  # devices that are here may be another process's, and none is needed
    pod = topology(arguments.topology)
    config = json.loads(override(load_config(arguments.config), arguments.overrides).to_json())
    mesh = parse_mesh(arguments.mesh, pod.devices) if arguments.mesh else None
    plan = make_plan(arguments.config, config, pod, mesh)
    compiled = compile_step(config, pod, plan.best.mesh) if arguments.compile else None
    if arguments.json:
        print(json.dumps(plan_json(plan, compiled)))
    else:
        Console().print(terminal_plan(plan, compiled))
    return 0
