"""OpenAI's image API over our jobs: its SDKs work unmodified, with only ``base_url`` changed."""
