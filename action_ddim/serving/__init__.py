"""Models and actions put to use elsewhere. Read onnx_export, onnx_sampler (which needs no torch), then replay."""
