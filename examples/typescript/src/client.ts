/** A client for dmap: it counts before it sends, checks what comes, knows when to try again, begins a trace. */

import { randomBytes } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

/** A stream may be silent for dmap's `first_byte_s` (300); while it waits, a comment comes each 15 s. */
const SILENT_MS = 330_000;
/** An answer that is not streamed says nothing for `wait_s` (300), a load, and `first_byte_s` (300). */
const WHOLE_MS = 900_000;
/** Tries after the first. */
const RETRIES = 3;
const RETRIED = [429, 502, 503];
/** The pause before the second try where no `Retry-After` tells; it doubles from try to try. */
const PAUSE_MS = 500;
/** What a chat template may add to a prompt, in tokens. */
const TEMPLATE_TOKENS = 256;

/** A model in dmap's list: the context is told where it is known. */
const Model = z.object({ context_length: z.number().nullish() });

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

/** The prompt does not fit into the model's context. */
export class TooLong extends Error {}

/** The id of a new trace, for all that belongs to one question: dmap's log and traces have it. */
export function newTrace(): string {
  return randomBytes(16).toString("hex");
}

/** What belongs to one question: its trace, and what ends it. */
export interface Question {
  model: string;
  prompt: string;
  trace: string;
  signal: AbortSignal;
}

export class Client {
  readonly #openai: OpenAI;

  constructor(baseURL: string, apiKey: string) {
    // The client's own retries would repeat 408, 409, 500 and 504 too, and what was slow or cut off.
    this.#openai = new OpenAI({ baseURL, apiKey, timeout: WHOLE_MS, maxRetries: 0 });
  }

  /** Return the whole answer. */
  async whole(asked: Question): Promise<string> {
    await this.checkLength(asked);
    const body = asking(asked);
    const told = await retried(() => this.#openai.chat.completions.create(body, options(asked)), asked.signal);
    const [choice] = checked(Answer, told).choices;
    return choice!.message.content; // the schema has at least one
  }

  /** Yield the answer as it is made.  Only its begin is tried again: words that came stay said. */
  async *stream(asked: Question): AsyncGenerator<string> {
    await this.checkLength(asked);
    const body = { ...asking(asked), stream: true as const };
    const ask = () => this.#openai.chat.completions.create(body, { ...options(asked), timeout: SILENT_MS });
    for await (const chunk of await retried(ask, asked.signal)) {
      for (const { delta } of checked(Chunk, chunk).choices) if (delta.content) yield delta.content;
    }
    asked.signal.throwIfAborted(); // an aborted stream ends as if it were whole
  }

  /** Return the answer as a value of `schema`: the model is bound to it, and it is checked. */
  async value<T>(asked: Question, name: string, schema: z.ZodType<T>): Promise<T> {
    await this.checkLength(asked);
    const body = { ...asking(asked), response_format: zodResponseFormat(schema, name) };
    const told = await retried(() => this.#openai.chat.completions.create(body, options(asked)), asked.signal);
    const [choice] = checked(Answer, told).choices;
    return checked(schema, parsed(choice!.message.content));
  }

  /**
   * Throw `TooLong` if the prompt cannot fit into the model's context.
   *
   * A token has at least one byte, so what is short needs no count.  Where nobody can count, dmap refuses by
   * itself what it knows not to fit.
   */
  async checkLength(asked: Question): Promise<void> {
    const { model, prompt, signal } = asked;
    const listed = await retried(() => this.#openai.models.retrieve(model, options(asked)), signal);
    const context = checked(Model, listed).context_length;
    if (context == null || Buffer.byteLength(prompt) + TEMPLATE_TOKENS <= context) return;
    const count = await this.#counted(asked);
    if (count > context) throw new TooLong(`the prompt has ${count} tokens, and ${model} takes ${context}`);
  }

  /** Return how many tokens the prompt has; 0 where its server cannot count, as LM Studio. */
  async #counted(asked: Question): Promise<number> {
    const body = { model: asked.model, input: asked.prompt };
    try {
      const told = await retried(() => this.#openai.responses.inputTokens.count(body, options(asked)), asked.signal);
      return told.input_tokens;
    } catch (error) {
      if (error instanceof OpenAI.NotFoundError) return 0;
      throw error;
    }
  }
}

function asking({ model, prompt }: Question) {
  return { model, messages: [{ role: "user" as const, content: prompt }] };
}

/** A span of the trace for one try (W3C Trace Context), which is to be recorded; and what ends the try. */
function options({ trace, signal }: Question) {
  return { signal, headers: { traceparent: `00-${trace}-${randomBytes(8).toString("hex")}-01` } };
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
  if (!(error instanceof OpenAI.APIError) || !RETRIED.includes(error.status ?? 0)) return undefined;
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
