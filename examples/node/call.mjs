import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const files = ["attendant/v1/translation.proto", "attendant/v1/classification.proto"];
const definitions = loadSync(files, { includeDirs: ["protos", "protos/third_party"] });
const { TranslationService, ClassificationService } =
  grpc.loadPackageDefinition(definitions).attendant.v1;

const target = process.env.ATTENDANT_TARGET ?? "localhost:50051";
const plaintext = grpc.credentials.createInsecure();
const withinSeconds = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

const translation = new TranslationService(target, plaintext);
const translate = promisify(translation.translate).bind(translation);
const texts = { contents: ["A man is riding a horse on the beach."], options: { beamSize: 4 } };
const translated = await translate(texts, withinSeconds(10));
console.log(translated.results[0].hypotheses[0].text);

const classification = new ClassificationService(target, plaintext);
const classify = promisify(classification.classify).bind(classification);
const images = { images: [{ content: readFileSync("examples/ship.jpg") }], topK: 1 };
const classified = await classify(images, withinSeconds(10));
console.log(classified.results[0].labels[0].label);

translation.close();
classification.close();
