"""What the documents show and the tests run."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def blocks(document, language="sh"):
    """The blocks of a document by their names: the lines of a fence that opens with ```LANGUAGE NAME."""
    text = (REPO / document).read_text()
    return dict(re.findall(rf"^```{language} (\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
