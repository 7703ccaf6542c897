"""What most people write: FastAPI, a pydantic model, ONNX Runtime in the endpoint. No key check, no log, no metrics."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from benchmarks.serving.rows import FEATURES

Row = create_model("Row", id=(str, ...), at=(int, ...), **dict.fromkeys(FEATURES, (float, ...)))  # type: ignore[call-overload]


class Request(BaseModel):
    """A request as Relevo takes it."""

    model: str
    instances: list[Row]


def make_app(path: str) -> FastAPI:
    """The app over one ONNX file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, list[float]]:
        feeds = {name: np.array([getattr(row, name) for row in request.instances], np.float32) for name in FEATURES}
        scores = session.run(["score"], feeds)[0]
        return {"predictions": scores.tolist()}

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        make_app(os.environ["MODEL"]), host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop", http="httptools",
        log_level="error", access_log=False, proxy_headers=False,
    )  # fmt: skip
