# The gateway by itself, without torch and without Modal's client. From the repository's root:
#   docker build -t tenkaigen-gateway .
#   docker run --env-file .env -p 8000:8000 -v tenkaigen:/data tenkaigen-gateway
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONPATH=/app PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# Packages first, which change less often than the code. The lock only constrains: what the gateway does not
# depend on stays out.
COPY pyproject.toml requirements.lock README.md ./
RUN pip install -c requirements.lock -e .

COPY styles styles
COPY supabase/migrations supabase/migrations
COPY modal_app/__init__.py modal_app/contract.py modal_app/
COPY modal_app/catalog modal_app/catalog
COPY gateway gateway

RUN useradd --uid 10001 --create-home gateway && install --directory --owner=gateway /data
USER gateway
VOLUME /data
ENV HOST=0.0.0.0 PORT=8000 DATA=/data
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os; from urllib.request import urlopen; urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
CMD ["python", "-m", "gateway"]
