/** A client for dmap whose answers are checked, which knows when to try again, and which can be stopped. */

import { setTimeout as pause } from "node:timers/promises";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

/** How long one try may take to begin to answer; above the longest load. */
const TRY_MS = 120_000;
/** Tries after the first. */
const RETRIES = 3;
/** The pause before the second try where dmap names none; it doubles from try to try. */
const PAUSE_MS = 500;

const Answer = z.object({
  model: z.string(),
  choices: z
    .array(z.object({ message: z.object({ content: z.string() }), finish_reason: z.string().nullish() }))
    .min(1),
});

const Chunk = z.object({
  choices: z.array(z.object({ delta: z.object({ content: z.string().nullish() }) })),
});

/** What was answered was not what it had to be. */
export class WrongAnswer extends Error {}

export class Client {
  readonly #openai: OpenAI;

  constructor(baseURL: string, apiKey: string) {
    // The client's own retries would repeat 408, 409 and 429 too, and requests whose connection broke.
    this.#openai = new OpenAI({ baseURL, apiKey, timeout: TRY_MS, maxRetries: 0 });
  }

  /** Return the whole answer to `prompt`. */
  async whole(model: string, prompt: string, signal: AbortSignal): Promise<string> {
    const told = await retried(() => this.#openai.chat.completions.create(asking(model, prompt), { signal }), signal);
    const [choice] = checked(Answer, told).choices;
    return choice!.message.content; // the schema has at least one
  }

  /** Yield the answer to `prompt` as it is made.  Only its begin is tried again: words that came stay said. */
  async *stream(model: string, prompt: string, signal: AbortSignal): AsyncGenerator<string> {
    const stream = await retried(
      () => this.#openai.chat.completions.create({ ...asking(model, prompt), stream: true }, { signal }),
      signal,
    );
    for await (const chunk of stream) {
      for (const { delta } of checked(Chunk, chunk).choices) if (delta.content) yield delta.content;
    }
    signal.throwIfAborted(); // an aborted stream ends as if it were whole
  }

  /** Return the answer to `prompt` as a value of `schema`: the model is bound to it, and it is checked. */
  async value<T>(model: string, prompt: string, name: string, schema: z.ZodType<T>, signal: AbortSignal): Promise<T> {
    const body = { ...asking(model, prompt), response_format: zodResponseFormat(schema, name) };
    const told = await retried(() => this.#openai.chat.completions.create(body, { signal }), signal);
    const [choice] = checked(Answer, told).choices;
    return checked(schema, parsed(choice!.message.content));
  }
}

function asking(model: string, prompt: string) {
  return { model, messages: [{ role: "user" as const, content: prompt }] };
}

/** Do `ask` until it succeeds, fails for good, or has failed often enough. */
async function retried<T>(ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let tried = 0; ; tried++) {
    try {
      return await ask();
    } catch (error) {
      const ms = tried < RETRIES ? pauseAfter(error, tried) : undefined;
      if (ms === undefined) throw error;
      await pause(ms, undefined, { signal });
    }
  }
}

/** Return how long to wait before the next try; undefined where trying again is of no use. */
function pauseAfter(error: unknown, tried: number): number | undefined {
  if (!(error instanceof OpenAI.APIError) || error.status === undefined || error.status < 500) return undefined;
  if (error.headers?.get("x-should-retry") === "false") return undefined;
  const seconds = Number(error.headers?.get("retry-after"));
  return seconds > 0 ? seconds * 1000 : PAUSE_MS * 2 ** tried;
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (!result.success) throw new WrongAnswer(z.prettifyError(result.error));
  return result.data;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new WrongAnswer(`no JSON: ${text.slice(0, 80)}`);
  }
}
