#!/usr/bin/env python3
"""Prints the JobSet that starts `tokjax train` on GKE, on TPU slices or GPU nodes, one process a host.

    python launch/gke/render.py tpu --name hat --image REGISTRY/tokjax --claim runs \\
        --accelerator tpu-v5-lite-podslice --topology 4x4 --config hat:paper --workdir /runs/hat | kubectl apply -f -
    python launch/gke/render.py gpu --name hat --image REGISTRY/tokjax --claim runs \\
        --accelerator nvidia-h100-80gb --hosts 2 --config hat:paper --workdir /runs/hat | kubectl apply -f -

Needs: a cluster with JobSet installed and node pools of that kind; an image in which `tokjax` runs (pip install
'tokjax[tpu]' or 'tokjax[cuda]'); a persistent volume claim that many nodes can write, such as a Filestore share, which
is mounted at /runs. Options that it does not know go to `tokjax train`.

When a pod fails or is preempted, JobSet starts all of them again, up to --restarts times, and the run goes on.
"""

import argparse
import json
import math
import re
import string
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("kind", choices=("tpu", "gpu"))
    for name, text in (
        ("name", "of the JobSet: lower case, digits, hyphens"),
        ("image", "container image that has tokjax"),
        ("claim", "persistent volume claim of /runs"),
        ("accelerator", "label of the nodes, as in tpu-v5-lite-podslice or nvidia-h100-80gb"),
    ):
        parser.add_argument(f"--{name}", required=True, help=text)
    parser.add_argument("--topology", help="TPU: chips of a slice, as in 4x4")
    parser.add_argument("--slices", type=int, default=1, help="TPU: default 1")
    parser.add_argument("--hosts", type=int, default=1, help="GPU: nodes (default: 1)")
    parser.add_argument("--chips", type=int, help="of a host (default: 4 TPUs, 8 GPUs)")
    parser.add_argument("--restarts", type=int, default=100, help="default: 100")
    parser.add_argument("--spot", action="store_true", help="nodes that may be preempted")
    arguments, train = parser.parse_known_args()
    values = vars(arguments)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", arguments.name):
        parser.error(f"--name {arguments.name}: use lower case, digits and hyphens, 40 characters at most.")
    values["chips"] = arguments.chips or (4 if arguments.kind == "tpu" else 8)
    if arguments.kind == "tpu":
        if not re.fullmatch(r"\d+(x\d+){1,2}", arguments.topology or ""):
            parser.error(f"--topology {arguments.topology}: write the chips of a slice, as in 4x4 or 4x4x8.")
        values["hosts"], rest = divmod(math.prod(map(int, arguments.topology.split("x"))), values["chips"])
        if rest or not values["hosts"]:
            parser.error(f"--topology {arguments.topology}: not whole hosts of {values['chips']} chips; give --chips.")
    values["coordinator"] = f"{arguments.name}-worker-0-0.{arguments.name}:8476"
    texts = {name: json.dumps(value) for name, value in values.items() if isinstance(value, str)}
    template = string.Template(Path(__file__).with_name(f"jobset-{arguments.kind}.yaml").read_text())
    print(
        template.substitute(
            {**values, **texts},
            name=arguments.name,
            command=json.dumps(["tokjax", "train", *train]),
            spot='cloud.google.com/gke-spot: "true"' if arguments.spot else "",
        ),
        end="",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
