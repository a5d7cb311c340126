"""LoRAs that users register: from a file they send, an address, Hugging Face or Civitai.

POST /v1/loras ──▶ pending ──fetched, header checked──▶ ready
                      └──refused──▶ failed
"""
