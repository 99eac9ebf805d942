// A model server of Node's JSON.parse that keeps what it read of each request.  GET /seen tells, and forgets.
const http = require('node:http');

const MODELS = ['small-js', 'held-js', 'big-js'];
const WORDS = {
  draft_model: ['draft_model', 'draftModel'],
  context_length: ['context_length', 'contextLength'],
  integrations: ['integrations', 'mcp_servers'],
  keep_alive: ['keep_alive', 'keepAlive'],
};
let seen = [];

function* links(part) {
  for (const [name, value] of Object.entries(part ?? {})) {
    if (typeof value === 'string' && /(_url|^url|^image)$/.test(name)) yield value;
    else if (typeof value === 'object' && /(_url|^\d+|^content|^output|^source)$/.test(name)) yield* links(value);
  }
}

// fetches as `new URL` reads it: without slashes, with tabs and blanks anywhere
function isLink(text) {
  try {
    return ['http:', 'https:', 'file:'].includes(new URL(text).protocol);
  } catch {
    return false;
  }
}

function reading(text) {
  const data = JSON.parse(text);
  const asked = Object.keys(WORDS).filter((name) => WORDS[name].some((word) => data[word] || data[word] === 0));
  if (data.options?.num_ctx !== undefined || data.options?.num_gpu !== undefined) asked.push('options');
  if (Array.isArray(data.tools) && data.tools.some((tool) => tool?.server_url !== undefined)) asked.push('integrations');
  const turns = [data.messages, data.input, data.system, data.query, data.documents];
  const fetches = turns.some((turn) => typeof turn === 'object' && [...links(turn)].some(isLink));
  if (fetches) asked.push('image_url');
  return {
    model: data.model ?? null,
    stream: Boolean(data.stream),
    guarded: asked,
    temperature: data.temperature,
    logit_bias: 'logit_bias' in data,
  };
}

function view(text) {
  try {
    return reading(text);
  } catch (error) {
    return `unreadable: ${error.message}`;
  }
}

http
  .createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const body = Buffer.concat(pieces);
    const id = request.headers['x-request-id'] ?? null;
    let told = { object: 'chat.completion', id, choices: [] };
    if (request.url === '/v1/models') told = { object: 'list', data: MODELS.map((name) => ({ id: name })) };
    else if (request.url === '/seen') [told, seen] = [seen, []];
    else seen.push({ id, path: request.url, views: { node: view(body.toString()) }, headers: request.headers });
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(told));
  })
  .listen(Number(process.argv[2]), '127.0.0.1');
