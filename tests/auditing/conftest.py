from pathlib import Path

import pytest
from planted import make_planted


@pytest.fixture(scope="session")
def planted_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_planted(tmp_path_factory.mktemp("planted"))
