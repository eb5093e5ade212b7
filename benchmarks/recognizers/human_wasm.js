// @vladmandic/human: its network for emotions, fed as src/gear/emotion.ts feeds it, on its WebAssembly backend.
// Its `detect` takes no box, so that the network is called without its detector.

const fs = require('fs');
const path = require('path');
const { SIDE, countWeights, rgb, run } = require('./protocol.js');

const MODULES = process.env.PEER_MODULES;
const CLASSES = ['angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral'];
const GREY = [0.2989, 0.5870, 0.1140];

async function load() {
  const folder = path.join(MODULES, '@vladmandic', 'human');
  const { Human } = require(path.join(folder, 'dist', 'human.node-wasm.js'));
  const wasmPath = path.join(MODULES, '@tensorflow', 'tfjs-backend-wasm', 'dist', path.sep);
  const human = new Human({ backend: 'wasm', wasmPath, debug: false });
  await human.init();
  const { tf } = human;
  const description = JSON.parse(fs.readFileSync(path.join(folder, 'models', 'emotion.json')));
  const bytes = fs.readFileSync(path.join(folder, 'models', 'emotion.bin'));
  const weightData = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const weightSpecs = description.weightsManifest.flatMap((group) => group.weights);
  const network = await tf.loadGraphModel({
    load: async () => ({ modelTopology: description.modelTopology, weightSpecs, weightData }),
  });

  function classify(image) {
    return tf.tidy(() => {
      const face = tf.div(tf.tensor(rgb(image), [1, SIDE, SIDE, 3], 'float32'), 255);
      const resized = tf.image.resizeBilinear(face, network.inputs[0].shape.slice(1, 3), false);
      const grey = tf.sum(tf.mul(resized, tf.tensor1d(GREY)), 3, true);
      const scores = network.execute(tf.mul(tf.sub(grey, 0.5), 2));
      return CLASSES[tf.argMax(scores, 1).dataSync()[0]];
    });
  }

  return { classify, parameters: countWeights(weightSpecs) };
}

run(load);
