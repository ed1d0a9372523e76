"""What a study returns and leaves in its directory."""

import dataclasses
import json
from pathlib import Path
from typing import Any

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
