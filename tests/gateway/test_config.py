"""Settings that refuse to start on what is missing."""

from typing import Any

import pytest

from gateway.config import ConfigurationError, Settings, login_as

COMPLETE: dict[str, Any] = {
    "database_url": "postgresql://gateway:secret@db.example.com:5432/postgres",
    "modal_generate_endpoint": "https://gpu.example.com",
    "webhook_secret": "whsec_eA==",
    "url_signing_key": "k",
}


@pytest.mark.parametrize("missing", sorted(COMPLETE))
def test_a_missing_setting_is_named(missing: str) -> None:
    settings = Settings(_env_file=None, **{name: v for name, v in COMPLETE.items() if name != missing})
    with pytest.raises(ConfigurationError, match=f"{missing.upper()} not configured"):
        settings.require()


def test_a_gateway_for_others_must_know_its_own_address() -> None:
    with pytest.raises(ConfigurationError, match="SITE_URL"):
        Settings(_env_file=None, host="0.0.0.0", **COMPLETE).require()
    Settings(_env_file=None, host="0.0.0.0", site_url="https://draw.example.com", **COMPLETE).require()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"supabase_url": "project.supabase.co"}, "SUPABASE_URL is not a web address"),
        ({"supabase_jwt_secret": "secret"}, "SUPABASE_URL not configured"),
        ({"supabase_anon_key": "key"}, "SUPABASE_URL not configured"),
        ({"local_user_id": "you"}, "LOCAL_USER_ID is not a UUID"),
    ],
)
def test_a_half_configured_sign_in_is_refused(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Settings(_env_file=None, **COMPLETE, **settings).require()


def test_the_publishable_key_goes_before_the_legacy_one() -> None:
    both: dict[str, Any] = {"supabase_publishable_key": "new", "supabase_anon_key": "old"}
    assert Settings(_env_file=None, **both).auth_key == "new"
    assert Settings(_env_file=None, supabase_anon_key="old").auth_key == "old"  # type: ignore[arg-type]


def test_the_site_address_is_the_listening_one_unless_set() -> None:
    assert Settings(_env_file=None, port=9000).public_url == "http://127.0.0.1:9000"
    assert Settings(_env_file=None, site_url="https://a.example/").public_url == "https://a.example"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://gateway:pw@h:5432/db", "postgresql://gateway_service:pw@h:5432/db"),
        ("postgresql://gateway.ref:pw@pooler:6543/db", "postgresql://gateway_service.ref:pw@pooler:6543/db"),
        ("postgresql://gateway:@/db?host=/tmp/x", "postgresql://gateway_service:@/db?host=/tmp/x"),
        ("postgresql://h/db", "postgresql://gateway_service@h/db"),
    ],
)
def test_the_second_login_differs_in_its_name_only(url: str, expected: str) -> None:
    assert login_as(url, "gateway_service") == expected


@pytest.mark.parametrize(
    ("secret", "legacy", "used"),
    [("sb_secret_a", "eyJ", "sb_secret_a"), ("", "eyJ", "eyJ"), ("", "", "")],
)
def test_the_legacy_key_of_a_project_stands_in_for_a_missing_secret_key(
    secret: str, legacy: str, used: str
) -> None:
    settings = Settings(_env_file=None, supabase_secret_key=secret, supabase_service_role_key=legacy)
    assert settings.supabase_key.get_secret_value() == used
