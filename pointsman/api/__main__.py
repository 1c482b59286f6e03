"""`python -m pointsman.api docs/openapi.json` writes the service's OpenAPI document."""

import sys
from pathlib import Path

from pointsman.api import create_app
from pointsman.api.openapi import as_text

Path(sys.argv[1]).write_text(as_text(create_app().openapi()), "utf-8", newline="\n")
