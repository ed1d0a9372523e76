"""What every study takes and returns."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokjax.core.errors import SpecError, nearest
from tokjax.core.files import write_text


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a study.

    Attributes:
      rows: one dict per system and seed.
      verdict: 'reproduced', 'partly reproduced' or 'not reproduced', with the paper's numbers beside ours.
      environment: versions, device, date.
    """

    rows: list[dict[str, Any]]
    verdict: str
    environment: dict[str, Any]

    def write(self, directory: Path) -> None:
        """Writes `directory/result.json`."""
        write_text(directory / "result.json", json.dumps(dataclasses.asdict(self), indent=1))


def choose_sources(given: Mapping[str, str], defaults: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the source address of every role of a study.

    Args:
      given: role -> address, the user's.
      defaults: role -> address of every role that the study has; None where the user must give one.

    Raises:
      SpecError: a role that the study does not have, or one that must be given and is not.
    """
    for role in given:
        if role not in defaults:
            raise SpecError(f"--source {role}={given[role]}: no such role.{nearest(role, defaults)}")
    chosen = {role: given.get(role, address) for role, address in defaults.items()}
    for role, address in chosen.items():
        if address is None:
            raise SpecError(f"--source {role}: missing; give it as --source {role}=ADDRESS, as in {role}=file:*.txt.")
    return {role: str(address) for role, address in chosen.items()}
