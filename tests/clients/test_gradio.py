"""Gradio: interfaces around pipelines, asked over HTTP on loopback by Gradio's own client."""

from typing import Any

from opening import Place, run


def job(place: Place) -> Any:
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio
    from gradio_client import Client
    from transformers import pipeline

    def words(found: list[dict[str, Any]]) -> dict[str, float]:
        return {each["token_str"].strip(): each["score"] for each in found}

    fill, tell, go_on = (
        pipeline(task, model=folder, trust_remote_code=place.trust)
        for task, folder in (
            ("fill-mask", place.encoder),
            ("text-classification", place.classifier),
            ("text-generation", place.decoder),
        )
    )
    answers = {}
    # Gradio 6.31's own `Interface.from_pipeline` asks transformers for a pipeline that version 5 no longer has.
    for name, function, output, text in (
        ("fill", lambda text: words(fill(text)), "label", "He opened the [MASK] and went into the house."),
        ("tell", lambda text: {each["label"]: each["score"] for each in tell(text, top_k=None)}, "label", "No."),
        ("go_on", lambda text: go_on(text, max_new_tokens=8, do_sample=False)[0]["generated_text"], "text", "The king"),
    ):
        page = gradio.Interface(function, "text", output, api_name=name)
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        answers[name] = Client(url, verbose=False).predict(text, api_name=f"/{name}")
        page.close()
    return answers


def test_gradio(mode: str):
    found, expected = run(job, mode), run(job, "native")
    assert "door" in [each["label"] for each in found["fill"]["confidences"]]
    assert found["tell"]["label"] == expected["tell"]["label"]
    assert sum(each["confidence"] for each in found["tell"]["confidences"]) > 0.999
    assert found["go_on"].startswith("The king")
    assert found["go_on"] == expected["go_on"]
