// OpenAI's client for Node: `node openai_node.mjs TASK URL KEY`.  It says what `said.py` tells of.

import OpenAI from "openai";

const [, , task, url, key] = process.argv;
const client = new OpenAI({ baseURL: url + "/v1", apiKey: key });
const messages = [{ role: "user", content: "Hello" }];
const city = { type: "object", properties: { city: { enum: ["Rome", "Oslo"] } }, required: ["city"] };
const first = () => console.log("first");

async function chat(model = "tiny-sea", asked = messages) {
  const answer = await client.chat.completions.create({ model, messages: asked, max_tokens: 20 });
  return { text: answer.choices[0].message.content };
}

async function stream(model = "tiny-sea", tokens = 20) {
  const chunks = await client.chat.completions.create({ model, messages, max_tokens: tokens, stream: true });
  const words = [];
  for await (const chunk of chunks) {
    const piece = chunk.choices[0]?.delta.content;
    if (piece && !words.length) first();
    if (piece) words.push(piece);
  }
  return { text: words.join(""), pieces: words.length };
}

async function tools() {
  const answer = await client.chat.completions.create({
    model: "tiny-sea", messages, max_tokens: 200, parallel_tool_calls: false, tool_choice: "required",
    tools: [{ type: "function", function: { name: "weather", parameters: city } }],
    logit_bias: JSON.parse(process.env.BIAS),
  });
  const call = answer.choices[0].message.tool_calls[0].function;
  return { tool: call.name, city: JSON.parse(call.arguments).city };
}

async function responses() {
  const body = { model: "tiny-sea", input: "Hello", max_output_tokens: 20, stream: true };
  const words = [];
  for await (const event of await client.responses.create(body)) {
    if (event.type === "response.output_text.delta") words.push(event.delta);
  }
  return { text: words.join(""), pieces: words.length };
}

async function helper() {
  const events = client.responses.stream({ model: "tiny-sea", input: "Hello", max_output_tokens: 20 });
  let pieces = 0;
  for await (const event of events) pieces += event.type === "response.output_text.delta";
  return { text: (await events.finalResponse()).output_text, pieces };
}

async function cancel() {
  const chunks = await client.chat.completions.create({ model: "slow", messages, max_tokens: 1500, stream: true });
  for await (const _ of chunks) { first(); break; }
  return { text: "" };
}

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  return { models: ids };
}

const picture = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII=";
const shown = [{ type: "text", text: "what is this" }, { type: "image_url", image_url: { url: picture } }];
const tasks = {
  models, chat, stream, tools, responses, cancel,
  "responses helper": helper,
  embeddings: async () => ({
    size: (await client.embeddings.create({ model: "tiny-embed", input: ["the sea"] })).data[0].embedding.length,
  }),
  vision: () => chat("seeing", [{ role: "user", content: shown }]),
  count: async () => ({
    count: (await client.responses.inputTokens.count({ model: "tiny-sea", input: "Hello" })).input_tokens,
  }),
  "wrong key": () => chat(),
  "unknown model": () => chat("nope"),
  "busy 429": () => chat(),
  "busy 503": () => chat("late"),
  broken: () => stream("slow", 1500),
  queue: () => stream(),
};

let said;
try {
  said = task in tasks ? await tasks[task]() : { lacks: true };
} catch (error) {
  console.error(error);
  said = { error: `${error.constructor.name}: ${error.message}`, status: error.status ?? null };
}
console.log(JSON.stringify(said));
