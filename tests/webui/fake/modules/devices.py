import torch

device = torch.device("cpu")
dtype = dtype_unet = torch.float32
