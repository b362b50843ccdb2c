{{/* The templates read the files of k8s/base and k8s/components, which kustomize uses too, and change what the values say. */}}

{{/* edgesam.load: the objects of a file in the namespace of the release, as JSON {"objects": [...]}.
     Arguments: root; path, below k8s; replace, a dict of new texts by old text, or nothing. */}}
{{- define "edgesam.load" -}}
{{- $text := required (printf "manifests/%s is missing in the chart" .path) (.root.Files.Get (printf "manifests/%s" .path)) -}}
{{- range $old, $new := .replace }}{{ $text = replace $old $new $text }}{{ end -}}
{{- $objects := list -}}
{{- range $document := splitList "\n---\n" $text -}}
{{- $object := fromYaml $document -}}
{{- $_ := set $object.metadata "namespace" $.root.Release.Namespace -}}
{{- $objects = append $objects $object -}}
{{- end -}}
{{ dict "objects" $objects | toJson }}
{{- end }}

{{/* edgesam.objects: the same as YAML documents. */}}
{{- define "edgesam.objects" -}}
{{- range (include "edgesam.load" . | fromJson).objects }}
---
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* edgesam.patch: apply a patch file of a component to a Deployment, as kustomize does. Changes `object`.
     Arguments: object, and those of edgesam.load. */}}
{{- define "edgesam.patch" -}}
{{- $patch := first (include "edgesam.load" . | fromJson).objects -}}
{{- $pod := .object.spec.template.spec -}}
{{- $change := $patch.spec.template.spec -}}
{{- $container := first $pod.containers -}}
{{- $addition := first $change.containers -}}
{{- range $list := list "env" "volumeMounts" -}}
{{- $_ := set $container $list (concat (index $container $list) (default list (index $addition $list))) -}}
{{- end -}}
{{- $_ := set $pod "volumes" (concat $pod.volumes (default list $change.volumes)) -}}
{{- $_ = mergeOverwrite $container (omit $addition "env" "volumeMounts") -}}
{{- $_ = mergeOverwrite $pod (omit $change "containers" "volumes") -}}
{{- $_ = mergeOverwrite .object.spec (omit $patch.spec "template") -}}
{{- end }}

{{/* edgesam.settings: the variables of the ConfigMap, as YAML. */}}
{{- define "edgesam.settings" -}}
{{- $files := list "base/replicas/settings.env" -}}
{{- if and (eq .Values.size "small") (not .Values.gpu) }}{{ $files = append $files "components/small/settings.env" }}{{ end -}}
{{- if .Values.gpu }}{{ $files = append $files "components/gpu/settings.env" }}{{ end -}}
{{- $settings := dict -}}
{{- range $file := $files -}}
{{- range $line := $.Files.Lines (printf "manifests/%s" $file) -}}
{{- if and $line (not (hasPrefix "#" $line)) -}}
{{- $pair := splitn "=" 2 $line -}}
{{- $_ := set $settings $pair._0 $pair._1 -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.model.names }}{{ $_ := set $settings "EDGESAM_MODELS" . }}{{ end -}}
{{- if .Values.model.volume }}{{ $_ := set $settings "EDGESAM_MODELS_DIR" "/models" }}{{ end -}}
{{- range $name, $value := .Values.settings }}{{ $_ := set $settings $name (toString $value) }}{{ end -}}
{{ toYaml $settings }}
{{- end }}

{{/* edgesam.image: the name of the image of the replicas. */}}
{{- define "edgesam.image" -}}
{{- $tag := default (printf "%s%s" .Chart.AppVersion (ternary "-gpu" "" .Values.gpu)) .Values.image.tag -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end }}
