tokenizer = None
