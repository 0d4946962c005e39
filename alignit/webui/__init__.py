"""AlignIT in the AUTOMATIC1111 WebUI: ports to its text encoders and UNet, one job per generation, panel and API."""
