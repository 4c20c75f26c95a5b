"""The type of configuration keys that are paths."""

import os
from typing import Annotated

from pydantic import AfterValidator

from util.config.settings import Text

# Shells expand the ~ of `out=~/masks`, but not that of `out="~/masks"`, nor a second path's.
PathText = Annotated[Text, AfterValidator(os.path.expanduser)]
