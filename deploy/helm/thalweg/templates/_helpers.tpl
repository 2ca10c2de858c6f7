{{- define "thalweg.name" -}}
{{- if contains "thalweg" .Release.Name }}{{ .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}{{ printf "%s-thalweg" (.Release.Name | trunc 40 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "thalweg.selector" -}}
app.kubernetes.io/name: thalweg
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .room }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "thalweg.labels" -}}
{{ include "thalweg.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "thalweg.metadata" -}}
name: {{ include "thalweg.name" .root }}{{ with .suffix | default .room }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "thalweg.labels" . | nindent 2 }}
{{- end }}

{{- define "thalweg.healthPort" -}}
{{ get (dict "joiner" 9101 "learner" 9102 "ranker" 9103 "console" 9104) . }}
{{- end }}

{{- /* The Secret of secrets, certificates or tokens; empty: there is none. Topics are created before the chart's own are. */ -}}
{{- define "thalweg.secret" -}}
{{- $given := index .root.Values .kind -}}
{{- if $given.existingSecret }}{{ $given.existingSecret }}
{{- else if or $given.values $given.content }}{{ include "thalweg.name" .root }}-{{ if eq .room "topics" }}topics-{{ end }}{{ .kind }}
{{- end }}
{{- end }}

{{- define "thalweg.needsTokens" -}}
{{- if not (include "thalweg.secret" (dict "root" . "kind" "tokens" "room" "ranker")) }}
{{- fail "ranker.http.enabled, but there are no tokens: rankers would refuse to listen for others. Set tokens.existingSecret (a Secret with the key tokens.toml) or --set-file tokens.content=tokens.toml; or ranker.http.enabled=false, for requests over Kafka alone" }}
{{- end }}
{{- end }}

{{- define "thalweg.httpHosts" -}}
{{- $name := printf "%s-ranker" (include "thalweg.name" .) -}}
{{- $space := printf "%s.%s" $name .Release.Namespace -}}
{{- concat (list $name $space (printf "%s.svc" $space) (printf "%s.svc.%s" $space .Values.clusterDomain)) .Values.ranker.http.hosts | join "," }}
{{- end }}

{{- /* Settings that are secret; the console's token is for the console alone. */ -}}
{{- define "thalweg.secretSettings" -}}
{{- $names := concat (list "kafka_password" "kafka_key_password" "redis_password" "redis_key_password" "redis_sentinel_password" "http_token") (keys .root.Values.secrets.values) | uniq | sortAlpha -}}
{{- eq .room "console" | ternary $names (without $names "http_token") | toJson }}
{{- end }}

{{- define "thalweg.checkSettings" -}}
{{- $s := .Values.settings -}}
{{- $_ := required "settings.kafka is empty: set the bootstrap servers, such as --set settings.kafka=kafka-0.kafka:9092" $s.kafka -}}
{{- $_ := required "settings.redis is empty: set Redis' URL, such as --set settings.redis=redis://redis:6379/0" $s.redis -}}
{{- $owned := list "data" "host" "http_hosts" "http_tokens" "joiner_port" "learner_port" "local" "ranker_http" "ranker_port" "spec" "worker" -}}
{{- range $name := keys $s | sortAlpha }}
{{- if has $name $owned }}
{{- fail (printf "settings.%s: the chart sets it itself, as probes, volumes and Services go by it; remove it" $name) }}
{{- end }}
{{- if has $name (include "thalweg.secretSettings" (dict "root" $ "room" "console") | fromJsonArray) }}
{{- fail (printf "settings.%s is a secret, which whoever reads pods would see: use secrets.values, or a Secret of yours with the key %s (secrets.existingSecret)" $name $name) }}
{{- end }}
{{- end }}
{{- if contains "@" (toString $s.redis) }}
{{- fail "settings.redis has a login in it, which whoever reads pods would see: set settings.redis_user, and the password as redis_password in secrets.values or in a Secret of yours" }}
{{- end }}
{{- end }}

{{- define "thalweg.settings" -}}
{{- $v := .root.Values -}}
{{- include "thalweg.checkSettings" .root -}}
{{- $own := dict "local" "/data" "data" "/data/sets" "host" $v.listen -}}
{{- if has .room (list "joiner" "learner" "ranker") }}
{{- $_ := set $own (printf "%s_port" .room) (include "thalweg.healthPort" .room) -}}
{{- end }}
{{- if ne .room "topics" }}{{ $_ := set $own "spec" "/specs/spec.toml" }}{{ end -}}
{{- if and (has .room (list "ranker" "console")) (include "thalweg.secret" (dict "root" .root "kind" "tokens" "room" .room)) }}
{{- $_ := set $own "http_tokens" "/tokens/tokens.toml" -}}
{{- end }}
{{- if and (eq .room "ranker") $v.ranker.http.enabled }}
{{- include "thalweg.needsTokens" .root -}}
{{- $host := contains ":" $v.listen | ternary (printf "[%s]" $v.listen) $v.listen -}}
{{- $_ := set $own "ranker_http" (printf "%s:8080" $host) -}}
{{- $_ := set $own "http_hosts" (include "thalweg.httpHosts" .root) -}}
{{- end }}
{{- range $name, $value := merge $own $v.settings }}
- name: THALWEG_{{ upper $name }}
  value: {{ and (kindIs "float64" $value) (eq (floor $value) (float64 $value)) | ternary (int64 $value | toString) (toString $value) | quote }}
{{- end }}
- name: THALWEG_WORKER
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- $secret := include "thalweg.secret" (dict "root" .root "kind" "secrets" "room" .room) }}
{{- range $name := include "thalweg.secretSettings" . | fromJsonArray }}
{{- if $secret }}
- name: THALWEG_{{ upper $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $name }}, optional: true}}
{{- end }}
{{- end }}
{{- end }}
