// Every call of Attendant, and what a caller meets when one goes wrong. What came back is printed
// as JSON: the tests hold it against what the Python client gets.

import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const definitions = loadSync(
  [
    "attendant/v1/translation.proto",
    "attendant/v1/classification.proto",
    "attendant/v1/model.proto",
    // What is packed into the details of a google.rpc.Status; `json` unpacks it.
    "google/rpc/error_details.proto",
  ],
  {
    includeDirs: ["protos", "protos/third_party"],
    json: true,
    defaults: true,
    enums: String,
    oneofs: true,
  },
);
const api = grpc.loadPackageDefinition(definitions).attendant.v1;

const target = process.env.ATTENDANT_TARGET ?? "localhost:50051";
const plaintext = grpc.credentials.createInsecure();
const translation = new api.TranslationService(target, plaintext);
const classification = new api.ClassificationService(target, plaintext);
const models = new api.ModelService(target, plaintext);

const TEXTS = ["Two dogs are running over a green meadow.", "", "A boy is eating."];
const LONG_TEXT = "A woman in a red dress is sitting on a bench. ".repeat(64);

/** One unary call. Without a deadline a call would wait for ever. */
function call(service, method, request, seconds = 20) {
  const options = { deadline: Date.now() + seconds * 1000 };
  return promisify(service[method]).call(service, request, options);
}

async function translate() {
  const options = { beamSize: 4, numHypotheses: 2, returnScores: true };
  const response = await call(translation, "translate", { contents: TEXTS, options });
  return response.results.map(({ status, hypotheses }) => ({
    code: status?.code ?? grpc.status.OK,
    texts: hypotheses.map(({ text }) => text),
    scores: hypotheses.map(({ score }) => score),
  }));
}

/** What was sent piece by piece is, at the end, the finished text. */
async function stream() {
  const request = { contents: [TEXTS[0]] };
  const events = translation.streamTranslate({ request }, { deadline: Date.now() + 20_000 });
  const deltas = [];
  let finished;
  for await (const event of events) {
    if (event.event === "partial") deltas.push(event.partial.textDelta);
    if (event.event === "finished") finished = event.finished.result.hypotheses[0].text;
  }
  return { deltas, finished };
}

/** An image that cannot be read is told in its own status: its neighbours are classified. */
async function classify() {
  const contents = [
    readFileSync("examples/airplane.jpg"),
    Buffer.from("not an image"),
    readFileSync("examples/ship.jpg"),
  ];
  const images = contents.map((content) => ({ content }));
  const response = await call(classification, "classify", { images, topK: 2 });
  return response.results.map(({ status, labels }) => ({
    code: status?.code ?? grpc.status.OK,
    reason: reasonIn(status),
    labels: labels.map(({ label }) => label),
  }));
}

async function describe() {
  const listed = await call(models, "listModels", {});
  const { model } = await call(models, "getModel", { name: "captions-en-de" });
  return {
    names: listed.models.map(({ name }) => name),
    state: model.state,
    task: model.task,
    pairs: model.translation.languagePairs.map((pair) => [
      pair.sourceLanguageCode,
      pair.targetLanguageCode,
    ]),
  };
}

/** The code of a failed call and the reason from the README's list. */
async function failure(calling) {
  try {
    await calling();
  } catch (error) {
    const [details] = error.metadata.get("grpc-status-details-bin");
    const status = details && definitions["google.rpc.Status"].deserialize(details);
    return { code: error.code, reason: reasonIn(status) };
  }
  throw new Error("the call succeeded");
}

function reasonIn(status) {
  const isInfo = (detail) => detail["@type"].endsWith("/google.rpc.ErrorInfo");
  return status?.details.find(isInfo)?.reason ?? null;
}

/** A caller that leaves after the first words frees its place in the server. */
async function leave() {
  const request = { contents: [LONG_TEXT] };
  const events = translation.streamTranslate({ request }, { deadline: Date.now() + 20_000 });
  for await (const _ of events) events.cancel();
}

const askNobody = () => call(translation, "translate", { contents: ["x"], model: "nobody" });
const hurry = () => call(translation, "translate", { contents: [LONG_TEXT] }, 0.001);

console.log(
  JSON.stringify({
    translated: await translate(),
    streamed: await stream(),
    classified: await classify(),
    models: await describe(),
    unknown: await failure(askNobody),
    late: await failure(hurry),
    cancelled: await failure(leave),
  }),
);
for (const service of [translation, classification, models]) service.close();
