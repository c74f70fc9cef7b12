// Opens the model beside this page with transformers.js, and shows what it says.
import { env, pipeline, TextStreamer } from "./library/transformers.min.js";

const element = (id) => document.getElementById(id);
const here = new URL(".", location.href);
const settings = await (await fetch(new URL("settings.json", here))).json();

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = here.pathname;
env.useBrowserCache = false; // another model may stand at this address tomorrow
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = {
  mjs: new URL("library/ort-wasm-simd-threaded.mjs", here).href,
  wasm: new URL("library/ort-wasm-simd-threaded.wasm", here).href,
};

function add(parent, tag, text = "", name = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  made.className = name;
  return made;
}

function showBars(pairs) {
  const result = element("result");
  result.replaceChildren();
  for (const [label, share] of pairs) {
    const row = add(result, "div", "", "row");
    add(row, "span", label, "label");
    add(add(row, "span", "", "bar"), "i").style.width = `${100 * share}%`;
    add(row, "span", `${(100 * share).toFixed(1)} %`, "share");
  }
}

function refuseLong(encoded) {
  const length = encoded.input_ids.dims.at(-1);
  if (length > settings.max_length)
    throw new Error(`The text has ${length.toLocaleString()} tokens, and the model reads ${settings.max_length} at most.`);
}

const uses = {
  "fill-mask": {
    prompt: `Text with one ${settings.mask_token}`,
    button: "Fill in",
    async run(model, text) {
      const masks = text.split(settings.mask_token).length - 1;
      if (masks !== 1) throw new Error(`Write ${settings.mask_token} once, where a word is missing; it stands there ${masks} times.`);
      refuseLong(model.tokenizer(text, { truncation: false }));
      const guesses = await model(text, { top_k: 8 });
      showBars(guesses.map((guess) => [guess.token_str.trim() || JSON.stringify(guess.token_str), guess.score]));
    },
  },
  "text-generation": {
    prompt: "How the text begins",
    button: "Go on",
    async run(model, text) {
      refuseLong(model.tokenizer(text, { truncation: false }));
      const result = element("result");
      result.replaceChildren();
      const shown = add(result, "p", text, "text");
      const written = add(shown, "b");
      const streamer = new TextStreamer(model.tokenizer, {
        skip_prompt: true,
        skip_special_tokens: true,
        callback_function: (piece) => (written.textContent += piece),
      });
      const temperature = Number(element("temperature").value);
      const length = Number(element("length").value);
      const choice = temperature > 0 ? { do_sample: true, temperature, top_k: 50 } : { do_sample: false };
      await model(text, { max_new_tokens: length, ...choice, streamer });
    },
  },
  "text-classification": {
    prompt: "Text to classify",
    button: "Classify",
    async run(model, text) {
      refuseLong(model.tokenizer(text, { truncation: false }));
      const labels = await model(text, { top_k: null });
      showBars(labels.map(({ label, score }) => [label, score]));
    },
  },
};

const use = uses[settings.pipeline];
document.title = settings.name;
element("name").textContent = settings.name;
element("about").textContent = settings.about;
element("prompt").textContent = use.prompt;
element("text").value = settings.example;
element("pair").hidden = settings.pipeline !== "text-classification";
element("second").required = settings.reads_pairs;
element("settings").hidden = settings.pipeline !== "text-generation";

async function attempt(work) {
  const button = element("run");
  button.disabled = true;
  element("trouble").hidden = true;
  try {
    await work();
    button.textContent = use.button;
    button.disabled = false;
  } catch (error) {
    element("trouble").textContent = String(error.message ?? error);
    element("trouble").hidden = false;
    element("result").replaceChildren(); // which answered another text
    button.disabled = model === null;
  }
}

let model = null;
await attempt(async () => {
  model = await pipeline(settings.pipeline, "model", { dtype: settings.dtype, device: "wasm" });
  const { tokenizer } = model; // which the pipeline gives one text
  const pair = () => ({ text_pair: element("second").value || null, return_token_type_ids: true });
  if (settings.pipeline === "text-classification") model.tokenizer = (text, options) => tokenizer(text, { ...options, ...pair() });
});
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => use.run(model, element("text").value));
});
