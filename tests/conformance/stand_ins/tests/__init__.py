"""Takes the place of transformers' package `tests`: the modules beside this file, then those that transformers ships.

A folder of its own, so that processes that tests start (of other ranks) find the package on `sys.path` as well.
"""

import os

__path__.append(os.environ["CONFORMANCE_TESTS"])
