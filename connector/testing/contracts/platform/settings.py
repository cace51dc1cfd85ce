"""The contract of a platform's settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connector.config import PlatformSettings
from connector.domain.errors import ConfigError
from connector.testing.contracts.platform.subject import PlatformSubject, secret_values, text_values


class SettingsTests(PlatformSubject):
    def test_settings_are_loaded_from_a_file(self, tmp_path: Path) -> None:
        model = self._load(tmp_path, self.settings)
        assert isinstance(model, self.platform.settings)
        assert isinstance(model, PlatformSettings), "a settings model extends PlatformSettings"

    def test_an_invalid_setting_is_named_in_the_error(self, tmp_path: Path) -> None:
        assert self.refused, "name at least one setting and an invalid value"
        for name, value in self.refused.items():
            with pytest.raises(ConfigError) as caught:
                self._load(tmp_path, {**self.settings, name: value})
            assert any(f".settings.{name}" in fault for fault in caught.value.faults), (
                f"{name} = {value!r}: no fault names it: {caught.value.faults}"
            )
            self._assert_no_secrets(str(caught.value))

    def test_an_unknown_setting_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"settings\.no_such_setting"):
            self._load(tmp_path, {**self.settings, "no_such_setting": "x"})

    def test_secrets_are_hidden(self) -> None:
        model = self._model()
        secrets = secret_values(model)
        for text in (repr(model), str(model), str(model.model_dump())):
            assert not [secret for secret in secrets if secret in text]
        for name in self.platform.settings.model_fields:
            if re.search(r"(^|_)(secret|key|token|password)$", name):
                given = self.settings.get(name)
                assert given is None or text_values(given) <= secrets, f"{name} must be a SecretStr"
