"""One export in a process of its own: `python -m ns_core.models.export`.

In: an `ExportRequest` as JSON on standard input. Out: an `ExportOutcome` as the last line of standard output;
exit status 0 also when it tells a mistake or a failure.
"""

import signal
import sys

from ns_core.errors import StageFailed, UserError
from ns_core.models.export.exporter import export
from ns_core.models.export.request import ExportOutcome, ExportRequest


def main() -> None:
    """Serves the request. SIGTERM clears away what is half written."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    request = ExportRequest.model_validate_json(sys.stdin.read())
    try:
        outcome = export(request)
    except UserError as error:
        outcome = ExportOutcome(mistake=str(error))
    except StageFailed as error:
        outcome = ExportOutcome(failure=str(error))
    sys.stdout.write(f"\n{outcome.model_dump_json()}\n")


if __name__ == "__main__":
    main()
