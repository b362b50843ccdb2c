import { Client } from "edgesam-client";
import { useMemo, useState } from "react";
import { createRoot } from "react-dom/client";
import { SegmentedImage } from "./SegmentedImage.jsx";

function App() {
  const client = useMemo(() => new Client(new URL("/edgesam/", location.href)), []);
  const [file, setFile] = useState(null);
  return (
    <main>
      <label>
        Choose a photo, then move over it and click: <input type="file" accept="image/*" onChange={(event) => setFile(event.target.files[0] ?? null)} />
      </label>
      {file && <SegmentedImage key={`${file.name} ${file.size}`} client={client} file={file} onMask={(mask) => console.log(mask.box, mask.score)} />}
    </main>
  );
}

createRoot(document.getElementById("root")).render(<App />);
