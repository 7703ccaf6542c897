"""The Open Inference Protocol v2 without I/O: tensors, the framing of requests and answers, and rows made of tensors."""
