"""Where models lie; a test sets it to a folder of its own."""

models_path = "models"
script_path = data_path = "."
