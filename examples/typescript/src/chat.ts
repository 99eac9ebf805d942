/** One question to a model behind dmap: streamed, whole, or as a value of a type.  Ctrl-C stops the model. */

import { parseArgs } from "node:util";

import OpenAI from "openai";
import { z } from "zod";

import { Client, newTrace, TooLong, WrongAnswer } from "./client.js";

const Harbour = z.object({ port: z.enum(["Bergen", "Porto"]) });

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { model: { type: "string" }, whole: { type: "boolean" }, port: { type: "boolean" } },
});
const [prompt] = positionals;
const stop = new AbortController();
const trace = newTrace();
process.once("SIGINT", () => stop.abort());

async function main(model: string, prompt: string): Promise<void> {
  const url = process.env["OPENAI_BASE_URL"] ?? "http://127.0.0.1:8000/v1";
  const client = new Client(url, process.env["OPENAI_API_KEY"] ?? "none");
  const asked = { model, prompt, trace, signal: stop.signal };
  if (values.port) {
    const { port } = await client.value(asked, "harbour", Harbour);
    console.log(port);
  } else if (values.whole) {
    console.log(await client.whole(asked));
  } else {
    for await (const piece of client.stream(asked)) process.stdout.write(piece);
    console.log();
  }
}

/** Say what went wrong, and return the exit status. */
function complain(error: unknown): number {
  if (stop.signal.aborted) return 130;
  if (error instanceof WrongAnswer) console.error(`the answer is not what it had to be: ${error.message}`);
  else if (error instanceof TooLong) console.error(error.message);
  else if (error instanceof OpenAI.APIError)
    console.error(`${error.message} (${error.code}, ${error.requestID}, trace ${trace})`);
  else throw error;
  return 1;
}

if (values.model === undefined || prompt === undefined) {
  console.error("usage: npm start -- --model MODEL [--whole | --port] PROMPT");
  process.exitCode = 2;
} else {
  await main(values.model, prompt).catch((error: unknown) => (process.exitCode = complain(error)));
}
