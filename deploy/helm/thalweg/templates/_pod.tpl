{{- /* A pod's metadata and specification. root; room: the component; image: its target; args; data: the volume is a claim. */ -}}
{{- define "thalweg.pod" -}}
{{- $v := .root.Values -}}
{{- $own := index $v .room -}}
{{- $isRoom := has .room (list "joiner" "learner" "ranker") -}}
{{- $certificates := include "thalweg.secret" (dict "root" .root "kind" "certificates" "room" .room) -}}
{{- $tokens := has .room (list "ranker" "console") | ternary (include "thalweg.secret" (dict "root" .root "kind" "tokens" "room" .room)) "" -}}
metadata:
  labels:
    {{- include "thalweg.selector" . | nindent 4 }}
    {{- with $v.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Rooms read spec and passwords at their start; tokens again when they change.
    checksum/spec: {{ sha256sum $v.spec }}
    checksum/secrets: {{ sha256sum (toJson (list $v.secrets.values $v.certificates.values)) }}
    {{- with $v.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $v.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- with $v.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .room "topics" }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ $own.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if has .room (list "joiner" "ranker") }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {{ include "thalweg.selector" . | fromYaml | toJson }}}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with index $v $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: {{ .room }}
      image: {{ $own.image | default (printf "%sthalweg-%s:%s" ($v.image.registry | empty | ternary "" (printf "%s/" $v.image.registry)) .image ($v.image.tag | default .root.Chart.AppVersion)) | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: {{ toJson .args }}
      env: {{- include "thalweg.settings" . | nindent 8 }}
      {{- if and (eq .room "learner") $own.backupSecret }}
      envFrom: [{secretRef: {name: {{ $own.backupSecret }}}}]
      {{- end }}
      {{- if $isRoom }}
      ports:
        - {name: health, containerPort: {{ include "thalweg.healthPort" .room }}}
        {{- if and (eq .room "ranker") $v.ranker.http.enabled }}
        - {name: http, containerPort: 8080}
        {{- end }}
      # Until it listens. A room may then be long in starting, live and not ready: it restores a checkpoint, or compiles.
      startupProbe:
        httpGet: {path: /livez, port: health}
        periodSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: health}
        periodSeconds: 10
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /readyz, port: health}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- else if eq .room "console" }}
      {{- $ask := list "python" "-c" "import urllib.request as r; r.urlopen('http://127.0.0.1:9104/readyz', timeout=5)" }}
      startupProbe:
        exec: {command: {{ toJson $ask }}}
        periodSeconds: 5
        timeoutSeconds: 10
        failureThreshold: 60
      livenessProbe:
        exec: {command: {{ toJson $ask }}}
        periodSeconds: 30
        timeoutSeconds: 10
      {{- end }}
      {{- if and (eq .room "ranker") $v.ranker.http.enabled }}
      # Clients are still sent here until each node has removed it from the Service.
      lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
      {{- end }}
      resources: {{- toYaml $own.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        {{- if ne .room "topics" }}
        - {name: spec, mountPath: /specs, readOnly: true}
        {{- end }}
        {{- if $certificates }}
        - {name: certificates, mountPath: /certificates, readOnly: true}
        {{- end }}
        {{- if $tokens }}
        - {name: tokens, mountPath: /tokens, readOnly: true}
        {{- end }}
  volumes:
    # Kernels of the image are linked into it; a processor without AVX2 compiles its own there.
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    {{- if not .claim }}
    - {name: data, emptyDir: {sizeLimit: {{ $own.storage.size }}}}
    {{- end }}
    {{- if ne .room "topics" }}
    - {name: spec, configMap: {name: {{ $v.specConfigMap | default (printf "%s-spec" (include "thalweg.name" .root)) }}}}
    {{- end }}
    {{- if $certificates }}
    - {name: certificates, secret: {secretName: {{ $certificates }}, defaultMode: 0440}}
    {{- end }}
    {{- if $tokens }}
    - {name: tokens, secret: {secretName: {{ $tokens }}, defaultMode: 0440}}
    {{- end }}
{{- end }}

{{- define "thalweg.claims" -}}
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .className }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .size }}}}
{{- end }}
