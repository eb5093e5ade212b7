// The same protocol as protocol.py, for networks that run in Node.

const fs = require('fs');

const SIDE = 48;
const NAMES = { fearful: 'fear', disgusted: 'disgust', surprised: 'surprise' };

// load: returns {classify, parameters}; classify takes the bytes of a grey image and returns the name of its class.
async function run(load) {
  const bytes = fs.readFileSync(process.argv[2]);
  const { classify, parameters } = await load();
  const classes = [];
  const milliseconds = [];
  let answered = 0;
  for (let begin = 0; begin < bytes.length; begin += SIDE * SIDE) {
    const image = bytes.subarray(begin, begin + SIDE * SIDE);
    const began = performance.now();
    const name = await classify(image);
    milliseconds.push(performance.now() - began);
    answered = answered || Date.now() / 1000;
    classes.push(NAMES[name] || name);
  }
  console.log(JSON.stringify({ answered, parameters, classes, milliseconds }));
}

// Repeats the bytes of a grey image in three channels: [48, 48, 3].
function rgb(image) {
  const pixels = new Int32Array(3 * image.length);
  image.forEach((value, index) => pixels.fill(value, 3 * index, 3 * index + 3));
  return pixels;
}

// Counts the weights of a manifest of TensorFlow.js, of any precision; whole numbers are shapes and axes.
function countWeights(weights) {
  const counted = weights.filter(({ dtype }) => dtype === 'float32').map(({ shape }) => shape.reduce((a, b) => a * b, 1));
  return counted.reduce((a, b) => a + b, 0);
}

module.exports = { SIDE, countWeights, rgb, run };
