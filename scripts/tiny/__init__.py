"""The bundled tiny model: the world it draws, its training and its evaluation.

the world     creatures (facts) · drawing (pixels) · captions (words)
the model     parts (sizes) · tokenizer · latents · prompts · flow · shortcuts
the training  run (budgets) · loop · vae → text_encoder → transformer → decoder · pipelines
afterwards    evaluate · lora
"""
