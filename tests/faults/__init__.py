"""What is promised when things go wrong, and the faults that are injected to see it kept.

The table of promises: docs/promises.md. `FAULTS_TIMES=10 pytest tests/faults` tries ten times as
much of whatever is repeated.
"""

import os

TIMES = int(os.environ.get("FAULTS_TIMES", "1"))
