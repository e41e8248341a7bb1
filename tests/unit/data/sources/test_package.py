"""What loading the sources costs."""

import os
import sys


def test_naming_a_source_loads_no_scikit_learn_and_no_torch() -> None:
    code = (
        "import sys, ns_core.data.sources; "
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'torch', 'torchvision', 'webdataset', 'boto3')))"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
