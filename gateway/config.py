"""Settings, each from one environment variable of the same name in capitals (see .env.example)."""

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.storage import LIMIT_BYTES, LORAS

LORA_HOSTS = (
    *("huggingface.co", "*.huggingface.co", "*.hf.co"),
    *("civitai.com", "b2.civitai.com"),
    "civitai-delivery-worker-prod.5ac0637cfd0766c97916cef3764fbdd2.r2.cloudflarestorage.com",
)
"""The two sites, and the hosts of their files that they lead to."""


class ConfigurationError(Exception):
    """A setting is missing or contradicts another; the message names it and says what to do."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    host: str = "127.0.0.1"
    port: int = 8000
    site_url: str = ""
    data: Path = Path(".data")

    database_url: SecretStr = SecretStr("")
    database_pool_size: int = 8

    supabase_url: str = ""
    supabase_secret_key: SecretStr = SecretStr("")
    supabase_service_role_key: SecretStr = SecretStr("")
    supabase_publishable_key: SecretStr = SecretStr("")
    supabase_anon_key: SecretStr = SecretStr("")
    supabase_jwt_secret: SecretStr = SecretStr("")
    local_user_id: str = ""

    modal_generate_endpoint: str = ""
    modal_key: SecretStr = SecretStr("")
    modal_secret: SecretStr = SecretStr("")
    gpu_token: SecretStr = SecretStr("")

    webhook_secret: SecretStr = SecretStr("")
    webhook_secret_previous: SecretStr = SecretStr("")
    url_signing_key: SecretStr = SecretStr("")
    recipe_secret: SecretStr = SecretStr("")
    recipe_secret_previous: SecretStr = SecretStr("")

    default_model: str = "tiny-qwen"
    default_edit_model: str = "tiny-qwen-edit"
    default_visibility: str = "public"
    allow_private_urls: bool = False

    lora_hosts: str = ",".join(LORA_HOSTS)
    lora_max_bytes: int = LIMIT_BYTES[LORAS]
    hf_endpoint: str = "https://huggingface.co"
    hf_token: SecretStr = SecretStr("")
    civitai_endpoint: str = "https://civitai.com"
    civitai_token: SecretStr = SecretStr("")
    franchises_file: str = ""
    lettering_fonts: str = ""

    jobs_in_flight: int = 64
    jobs_in_flight_per_user: int = 32
    lease_seconds: float = 7.0
    webhook_patience_seconds: float = 5.0
    worker_interval_seconds: float = 0.5
    worker: bool = True
    log_level: str = "info"
    metrics_token: SecretStr = SecretStr("")
    otel_exporter_otlp_endpoint: str = ""
    otel_exporter_otlp_headers: SecretStr = SecretStr("")
    otel_service_name: str = "tenkaigen-gateway"
    rate_limit_per_minute: int = 3000
    rate_limit_creates_per_minute: int = 300
    rate_limit_failures_per_minute: int = 60

    def require(self) -> "Settings":
        """These settings, once nothing that a gateway needs is missing; else ConfigurationError."""
        missing = self.missing()
        if missing == ["SITE_URL"]:
            raise ConfigurationError(
                "SITE_URL not configured: the address under which others reach this gateway."
            )
        if missing:
            raise ConfigurationError(
                f"{', '.join(missing)} not configured. Set it in the environment or in .env "
                "(.env.example says what each is), or run `tenkaigen up`, which needs none."
            )
        self.require_sign_in()
        return self

    def require_sign_in(self) -> None:
        """ConfigurationError unless the settings of signing in go together."""
        if self.supabase_url and not self.supabase_url.startswith(("https://", "http://")):
            raise ConfigurationError(
                "SUPABASE_URL is not a web address such as https://<project>.supabase.co."
            )
        if not self.supabase_url and (self.supabase_jwt_secret.get_secret_value() or self.auth_key):
            raise ConfigurationError(
                "SUPABASE_URL not configured, but a key of a Supabase project is: set both or neither."
            )
        if self.local_user_id and not _is_uuid(self.local_user_id):
            raise ConfigurationError("LOCAL_USER_ID is not a UUID.")

    def missing(self) -> list[str]:
        """Names of the settings that a gateway needs and that are not there."""
        needed = ("database_url", "modal_generate_endpoint", "webhook_secret", "url_signing_key")
        missing = [name.upper() for name in needed if not _text(getattr(self, name))]
        return missing + (["SITE_URL"] if not is_loopback(self.host) and not self.site_url else [])

    @property
    def public_url(self) -> str:
        """Where users reach the gateway, without a trailing slash."""
        return (self.site_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def supabase_key(self) -> SecretStr:
        """The project's secret key; the legacy service role key where there is none."""
        return self.supabase_secret_key if _text(self.supabase_secret_key) else self.supabase_service_role_key

    @property
    def lettering_font_files(self) -> list[Path]:
        return [Path(name.strip()) for name in self.lettering_fonts.split(",") if name.strip()]

    @property
    def recipe_secrets(self) -> list[str]:
        """With which recipes may be sealed, the present one first."""
        named = self.recipe_secret, self.recipe_secret_previous
        return [secret.get_secret_value() for secret in named if secret.get_secret_value()]

    @property
    def auth_url(self) -> str:
        """Supabase's auth service, which its tokens name as their issuer; empty without a project."""
        return f"{self.supabase_url.rstrip('/')}/auth/v1" if self.supabase_url else ""

    @property
    def auth_key(self) -> str:
        """The key that tells Supabase which project calls; it opens nothing by itself."""
        named = self.supabase_publishable_key, self.supabase_anon_key
        return next((key.get_secret_value() for key in named if key.get_secret_value()), "")

    @property
    def service_database_url(self) -> str:
        """The same database for the login ``gateway_service``: the role name with ``_service`` behind it.

        A pooler's user name ``gateway.<project>`` becomes ``gateway_service.<project>``.
        """
        return login_as(self.database_url.get_secret_value(), "gateway_service")


def login_as(database_url: str, role: str) -> str:
    """``database_url`` with another login role and all else kept."""
    parts = urlsplit(database_url)
    credentials, at, host = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    project = user.partition(".")[1:]
    return urlunsplit(parts._replace(netloc=f"{role}{''.join(project)}{colon}{password}{at or '@'}{host}"))


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _text(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def is_loopback(host: str) -> bool:
    """Whether this name or address is one of the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
