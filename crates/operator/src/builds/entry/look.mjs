// Whether a package's entry can be imported and called. Its last line says what is wrong; 90 is for sure, 91 is perhaps.
const { writeSync } = await import('node:fs');
const path = await import('node:path');
const { pathToFileURL } = await import('node:url');

const [file, name = 'default'] = process.env.WHARF_ENTRY.split('#');
// What the package prints is no answer.
process.stdout.write = process.stderr.write.bind(process.stderr);

function end(code, text = '') {
  writeSync(1, text.replace(/\s+/g, ' ').slice(0, 2000) + '\n');
  process.exit(code);
}

let module;
try {
  module = await import(pathToFileURL(path.resolve(file)).href);
} catch (error) {
  const known = ['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT', 'ERR_UNKNOWN_FILE_EXTENSION', 'ERR_REQUIRE_ESM'];
  if (error instanceof SyntaxError || known.includes(error?.code)) {
    end(90, `cannot be imported: ${error.name}: ${error.message}`);
  }
  end(91, `its import threw ${error}`);
}
const found = module[name] ?? module.default?.[name];
if (typeof found !== 'function') {
  end(90, `names ${name}, which ${file} does not export as a function; it exports ${Object.keys(module).join(', ') || 'nothing'}`);
}
end(0);
